"""Time steps as channels, against slicing and padding them one by one."""

import pytest
import torch

from flashvsr_kernels import reference
from flashvsr_kernels.time_taps import stack_time

MEMORY_BLOCK = {"n_taps": 2, "newest_first": True}
PROJECTION = {"n_taps": 4, "stride": 2, "border": 1}


def normal(rng, device, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=rng, device=device).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((1, 1, 5, 7, 48), MEMORY_BLOCK),
        ((1, 4, 9, 3, 16), MEMORY_BLOCK),
        ((2, 4, 3, 5, 768), PROJECTION),  # channels in two tiles
        ((1, 8, 1, 1, 16), PROJECTION),
        ((3, 2, 4, 4, 24), PROJECTION),
    ],
)
def test_equals_the_steps_one_by_one(rng, device, dtype, shape, how):
    x = normal(rng, device, *shape, dtype=dtype)
    n_front = how["n_taps"] - how.get("stride", 1)
    front = normal(rng, device, shape[0], n_front, *shape[2:], dtype=dtype)
    assert torch.equal(stack_time(x, front, **how), reference.stack_time(x, front, **how))


def test_a_clip_may_follow_itself(rng, device):
    x = normal(rng, device, 2, 4, 3, 5, 16)
    own = x[:, -2:]  # a view with the stride of whole clips, as version v1 of the projection wants it
    assert torch.equal(stack_time(x, own, **PROJECTION), reference.stack_time(x, own, **PROJECTION))


def test_bad_arguments_are_refused(rng, device):
    x = normal(rng, device, 1, 4, 3, 5, 16)
    with pytest.raises(ValueError, match="in front of"):
        stack_time(x, x[:, :1], 4, stride=2)
    with pytest.raises(ValueError, match="contiguous"):
        stack_time(x.transpose(2, 3).contiguous().transpose(2, 3), x[:, :2], 4, stride=2)
    with pytest.raises(ValueError, match="multiple"):
        stack_time(x, x[:, :1], 4, stride=3)
