"""Which backend computes the transformer, and that a slower one than the device could have is announced."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import flashvsr_kernels
from flashvsr_cli import startup
from flashvsr_cli.model.transformer import choose_transformer
from flashvsr_cli.options import ModelOptions
from flashvsr_cli.pipeline import Upscaler


def transformer_on(device: str, dtype: torch.dtype) -> SimpleNamespace:
    """As much of a loaded transformer as the choice looks at: tests have no GPU."""
    weight = SimpleNamespace(device=torch.device(device), is_cuda=device.startswith("cuda"), dtype=dtype)
    return SimpleNamespace(patch_embedding=SimpleNamespace(weight=weight), config=None)


@pytest.mark.parametrize(
    ("device", "backend", "is_told"),
    [("cuda:0", "auto", True), ("cuda:0", "torch", False), ("cpu", "auto", False)],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_that_do_not_run_on_a_gpu_are_announced(monkeypatch, device, backend, is_told, dtype):
    monkeypatch.setattr(flashvsr_kernels, "is_available", lambda _: False)
    chosen = choose_transformer(transformer_on(device, dtype), None, nn.ModuleList(), backend)
    assert chosen.name == "torch"
    assert bool(chosen.notice) == is_told
    if is_told:
        assert chosen.notice.startswith("The GPU kernels do not run on cuda:0: ")


def test_plain_torch_where_the_kernels_would_run_is_a_choice(monkeypatch):
    monkeypatch.setattr(flashvsr_kernels, "is_available", lambda _: True)
    assert choose_transformer(transformer_on("cuda:0", torch.float32), None, nn.ModuleList()).notice is None


@pytest.mark.parametrize("quiet", [False, True])
def test_the_announcement_is_a_line_when_the_model_is_loaded(monkeypatch, capsys, quiet):
    loaded = SimpleNamespace(network=SimpleNamespace(transformer=SimpleNamespace(notice="It is slower.")))
    monkeypatch.setattr(Upscaler, "load", lambda *_, **__: loaded)
    assert startup.load_and_tell(ModelOptions("nano", device="cpu"), quiet=quiet) is loaded
    assert ("note: It is slower." in capsys.readouterr().err) is not quiet
