"""What the package says about itself without being imported in full."""

import os
import subprocess
import sys

import pytest
from torch import nn

import flashvsr_kernels
from flashvsr_cli.errors import DeviceError
from flashvsr_cli.model.config import DiTConfig
from flashvsr_cli.model.dit import DiT
from flashvsr_cli.model.transformer import choose_transformer


def test_importing_the_package_is_cheap():
    script = "import sys, flashvsr_kernels; sys.exit('torch' in sys.modules or 'triton' in sys.modules)"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_the_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert flashvsr_kernels.is_available("cpu")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not flashvsr_kernels.is_available("cpu")
    assert not flashvsr_kernels.supports_fp8("cpu")


def test_devices_without_kernels_are_refused():
    assert not flashvsr_kernels.is_available("meta")


LIST_SPECIALISED = """
from triton.runtime.jit import JITFunction
from flashvsr_kernels import block_map, fp8_attention, qk_rope
pages = [
    (kernel, parameter)
    for module in (block_map, fp8_attention, qk_rope)
    for kernel in vars(module).values() if isinstance(kernel, JITFunction)
    for parameter in kernel.params if parameter.name in ("page_table_ptr", "new_pages_ptr")
]
assert len(pages) == 5, pages
print(*(kernel.__name__ for kernel, parameter in pages if not parameter.do_not_specialize_on_alignment))
"""


def test_no_kernel_is_compiled_again_for_the_address_of_a_page_table():
    """Rows of three page numbers are 12 bytes apart: every fourth is a multiple of 16, the others are not."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", LIST_SPECIALISED], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_fp8_goes_with_bfloat16_alone(monkeypatch):
    monkeypatch.setattr(flashvsr_kernels, "is_available", lambda _: True)
    monkeypatch.setattr(flashvsr_kernels, "supports_fp8", lambda _: True)
    config = DiTConfig(dim=16, n_heads=1, n_blocks=0, ffn_dim=16, freq_dim=16, text_dim=16, latent_channels=16)
    with pytest.raises(DeviceError, match="bfloat16"):
        choose_transformer(DiT(config).half(), None, nn.ModuleList(), fp8=True)
