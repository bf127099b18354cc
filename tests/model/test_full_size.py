"""Sizes of the released checkpoints against their published fingerprints, and the operations they cost."""

import hashlib

import pytest
import torch

from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.model.flops import count_flops
from flashvsr_cli.model.full_size import full_size_states
from flashvsr_cli.options import Settings

# md5 over the sorted "key:shape" and "key" strings of the released files.
FINGERPRINTS = {
    "dit": "9269f8db9040a9d860eaca435be61814",
    "lq_projection": "3eb26d719e741214f0a9dd74c6e58378",
    "tiny_decoder": "4c3523c69fb7b24cf2db147a715b277f",
}
DIT_PARAMETERS = 1_418_996_800
DECODER_PARAMETERS = 45_338_371


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    strings = [f"{key}:{'_'.join(map(str, tensor.shape))}" for key, tensor in state.items()] + list(state)
    return hashlib.md5(",".join(sorted(strings)).encode()).hexdigest()


@pytest.mark.parametrize("role", FINGERPRINTS)
def test_shapes_are_the_released_ones(role: str) -> None:
    assert fingerprint(full_size_states()[role]) == FINGERPRINTS[role]


def test_parameter_counts() -> None:
    counts = {role: sum(t.numel() for t in state.values()) for role, state in full_size_states().items()}
    assert counts["dit"] == DIT_PARAMETERS
    assert counts["tiny_decoder"] == DECODER_PARAMETERS


def test_operations_of_a_chunk_at_768x1408() -> None:
    # 21.1 linear + 23.9 attention + 0.8 cross-attention, 5.7 projection, 14.6 decoder, to the digits published.
    flops = count_flops(full_size_states(), plan_geometry((192, 352), 4), Settings())
    assert flops["transformer"] / 1e12 == pytest.approx(45.8, abs=0.1)
    assert flops["projection"] / 1e12 == pytest.approx(5.7, abs=0.15)
    assert flops["decoder"] / 1e12 == pytest.approx(14.6, abs=0.1)


def test_operations_grow_with_the_pixels() -> None:
    small, large = (
        count_flops(full_size_states(), plan_geometry(size, 4), Settings()) for size in ((192, 352), (384, 704))
    )
    for stage in small:
        assert large[stage] == pytest.approx(4 * small[stage], rel=2e-3)
