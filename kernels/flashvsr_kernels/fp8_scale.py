# mypy: disallow-untyped-defs=False
"""How e4m3 numbers are scaled: the largest of a group becomes 448, the largest there is."""

import triton
import triton.language as tl

from flashvsr_kernels import interpreter  # noqa: F401

FP8_MAX = tl.constexpr(448.0)
# Groups of smaller numbers are scaled as if this were the largest: no scale or its reciprocal is zero, subnormal or
# infinite, zeros stay zeros, and attention can take a scale of v out of a sum of probabilities again.
LEAST_LARGEST = tl.constexpr(2.0**-60)


@triton.jit
def fp8_scale(largest):
    """What stored values have to be multiplied by, given the largest magnitude, float32."""
    return tl.maximum(largest, LEAST_LARGEST) / FP8_MAX
