"""The transformer: the released layout, where low-resolution tokens enter, and folding of the constants."""

import hashlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_cli.model.config import DiTConfig, LowResProjectionConfig, TinyDecoderConfig
from flashvsr_cli.model.dit import DiT, timestep_embedding
from flashvsr_cli.model.lq_projection import LowResProjection
from flashvsr_cli.model.rope import rotary_table
from flashvsr_cli.model.tiny_decoder import TinyDecoder
from flashvsr_cli.model.windows import to_window_order

CPU = torch.device("cpu")
SMALL = DiTConfig(256, n_heads=2, n_blocks=3, ffn_dim=96, freq_dim=16, text_dim=8, latent_channels=16)
GRID = (2, 8, 16)


def fingerprint(module: nn.Module) -> str:
    """md5 over the sorted "key:d0_d1" and "key" strings (spec section 8)."""
    parts = []
    for key, tensor in module.state_dict().items():
        parts += [key, f"{key}:{'_'.join(map(str, tensor.shape))}"]
    return hashlib.md5(",".join(sorted(parts)).encode()).hexdigest()


@pytest.mark.parametrize(
    ("make", "digest", "n_tensors", "n_parameters"),
    [
        (
            lambda: DiT(DiTConfig(1536, 12, 30, 8960, 256, 4096, 16)),
            "9269f8db9040a9d860eaca435be61814",
            825,
            1_418_996_800,
        ),
        (
            lambda: TinyDecoder(TinyDecoderConfig(784, (512, 256, 128, 128))),
            "4c3523c69fb7b24cf2db147a715b277f",
            66,
            45_338_371,
        ),
        (
            lambda: LowResProjection(LowResProjectionConfig(768, 2048, 3072, 1536, 1), "v1.1"),
            "3eb26d719e741214f0a9dd74c6e58378",
            8,
            None,
        ),
    ],
    ids=["dit", "tiny_decoder", "lq_projection"],
)
def test_full_size_layout_is_the_released_one(
    make: Callable[[], nn.Module], digest: str, n_tensors: int, n_parameters: int | None
) -> None:
    with torch.device("meta"):
        module = make()
    assert len(module.state_dict()) == n_tensors
    assert fingerprint(module) == digest
    if n_parameters:
        assert sum(tensor.numel() for tensor in module.state_dict().values()) == n_parameters


@pytest.fixture
def dit(make_random: Callable[..., DiT]) -> DiT:
    return make_random(DiT(SMALL))


@pytest.fixture
def prompt(rng: torch.Generator) -> torch.Tensor:
    prompt = torch.randn(1, 12, 8, generator=rng)
    prompt[:, 5:] = 0
    return prompt


def attend_densely(_layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    heads = (x.unflatten(1, (2, -1)).transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads)[0].transpose(0, 1).flatten(1)


def predict(dit: DiT, conditioning: object, low_res_tokens: list[torch.Tensor]) -> torch.Tensor:
    latents = torch.randn(1, 16, 2, 16, 32, generator=torch.Generator().manual_seed(0))
    rotary = rotary_table(range(2), GRID[1:], 128, CPU)
    return dit(latents, low_res_tokens, conditioning, rotary, attend_densely)


def test_tokens_of_layer_b_are_added_before_block_b(dit: DiT, prompt: torch.Tensor, rng: torch.Generator) -> None:
    tokens = [torch.randn(256, 256, generator=rng) for _ in range(2)]
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    for block in dit.blocks:
        block.register_forward_pre_hook(lambda _block, args: inputs.append(args[0]))
        block.register_forward_hook(lambda _block, _args, out: outputs.append(out))
    conditioning = dit.condition(torch.tensor([1000.0]), prompt)
    predict(dit, conditioning, tokens)
    with_tokens = list(inputs)
    assert torch.equal(with_tokens[1], outputs[0] + tokens[1])
    assert torch.equal(with_tokens[2], outputs[1])
    inputs.clear()
    predict(dit, conditioning, [])
    torch.testing.assert_close(with_tokens[0], inputs[0] + tokens[0], rtol=1e-5, atol=1e-5)


def test_patches_are_the_convolution_in_window_order(dit: DiT, rng: torch.Generator) -> None:
    latents = torch.randn(1, 16, 2, 16, 32, generator=rng)
    expected = to_window_order(dit.patch_embedding(latents)[0].permute(1, 2, 3, 0))
    tokens, grid = dit.embed_patches(latents)
    assert grid == GRID
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_folding_changes_nothing_but_what_is_kept(dit: DiT, prompt: torch.Tensor) -> None:
    before = predict(dit, dit.condition(torch.tensor([1000.0]), prompt), [])
    conditioning = dit.fold_constants(prompt)
    assert torch.equal(predict(dit, conditioning, []), before)
    dead = ("text_embedding", "time_embedding", "time_projection", "cross_attn.k", "cross_attn.v", "cross_attn.norm_k")
    assert not [key for key in dit.state_dict() if any(part in key for part in dead)]
    with pytest.raises(RuntimeError, match="folded"):
        dit.condition(torch.tensor([1000.0]), prompt)


def test_zero_rows_of_the_prompt_are_attended(dit: DiT, prompt: torch.Tensor) -> None:
    whole, cut = (predict(dit, dit.condition(torch.tensor([1000.0]), rows), []) for rows in (prompt, prompt[:, :5]))
    assert not torch.allclose(whole, cut, atol=1e-3)


def test_timestep_embedding_is_cosines_then_sines() -> None:
    embedding = timestep_embedding(torch.tensor([1000.0]), 256)[0]
    exact = [1000 * 10000 ** (-i / 128) for i in range(128)]
    angles = torch.tensor(exact, dtype=torch.float64)
    torch.testing.assert_close(embedding, torch.cat((angles.cos(), angles.sin())), rtol=0, atol=1e-11)
