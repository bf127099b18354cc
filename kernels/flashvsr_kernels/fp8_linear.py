# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Linear layers in e4m3 with a scale per token and per output channel, both found on the spot: no calibration.

The product is torch's scaled matrix product; what is here makes its inputs. Layer norms can emit them directly
(`norm.residual_layer_norm_fp8`).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401
from flashvsr_kernels.fp8_scale import FP8_MAX, fp8_scale
from flashvsr_kernels.norm import residual_layer_norm_fp8

__all__ = ["Fp8Weight", "fp8_linear", "gelu_quantize_rows", "quantize_rows", "residual_layer_norm_fp8"]

FP8 = torch.float8_e4m3fn


@triton.jit
def _gelu_tanh(x):
    # x / 2 * (1 + tanh(y)) = x * sigmoid(2 y), y = sqrt(2 / pi) * (x + 0.044715 x^3)
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _quantize_rows_kernel(x_ptr, out_ptr, scale_ptr, dim, stride_x, GELU: tl.constexpr, BLOCK_D: tl.constexpr):
    p_x = x_ptr + tl.program_id(0).to(tl.int64) * stride_x
    p_out = out_ptr + tl.program_id(0).to(tl.int64) * dim
    largest = tl.zeros([BLOCK_D], tl.float32)
    for o in range(0, dim, BLOCK_D):
        o_d = o + tl.arange(0, BLOCK_D)
        x = tl.load(p_x + o_d, mask=o_d < dim, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(_gelu_tanh(x) if GELU else x))
    scale = fp8_scale(tl.max(largest, 0))
    tl.store(scale_ptr + tl.program_id(0), scale)
    # The row comes from the cache this time; to keep it in registers costs a tile of the next power of two.
    for o in range(0, dim, BLOCK_D):
        o_d = o + tl.arange(0, BLOCK_D)
        x = tl.load(p_x + o_d, mask=o_d < dim, other=0.0).to(tl.float32)
        x = _gelu_tanh(x) if GELU else x
        tl.store(p_out + o_d, (x * (1 / scale)).to(tl.float8e4nv), mask=o_d < dim)


def _quantize(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or x.stride(1) != 1:
        raise ValueError(f"x is (n_tok, dim) with contiguous channels, not {tuple(x.shape)}")
    n_tok, dim = x.shape
    out = torch.empty(n_tok, dim, dtype=FP8, device=x.device)
    scale = torch.empty(n_tok, 1, dtype=torch.float32, device=x.device)
    block_d = min(2048, triton.next_power_of_2(dim))
    _quantize_rows_kernel[(n_tok,)](x, out, scale, dim, x.stride(0), GELU=gelu, BLOCK_D=block_d, num_warps=4)
    return out, scale


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 with a scale per row: (n_tok, dim) -> (n_tok, dim) float8_e4m3fn, (n_tok, 1) float32.

    Raises:
        ValueError: if x is not two-dimensional with contiguous channels.
    """
    return _quantize(x, gelu=False)


def gelu_quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of GELU(x) in its tanh form, in one pass.

    Raises:
        ValueError: if x is not two-dimensional with contiguous channels.
    """
    return _quantize(x, gelu=True)


@dataclass(frozen=True)
class Fp8Weight:
    """Weight of a linear layer.

    Attributes:
        values: (out, in) float8_e4m3fn.
        scale: (1, out) float32.
    """

    values: Tensor
    scale: Tensor

    @staticmethod
    def of(weight: Tensor) -> "Fp8Weight":
        """Quantises (out, in) weights, a scale per output channel."""
        scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / FP8_MAX.value
        return Fp8Weight(values=(weight.float() / scale).to(FP8), scale=scale.T.contiguous())


def fp8_linear(x: tuple[Tensor, Tensor], weight: Fp8Weight, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias in e4m3, on Ada, Hopper or newer.

    Args:
        x: values (n_tok, in) float8_e4m3fn and scales (n_tok, 1) float32.
        weight: (out, in) and its scales; both sides are multiples of 16.
        bias: (out,) bfloat16.
        out: (n_tok, out) bfloat16, made if omitted.

    Returns:
        (n_tok, out) bfloat16.
    """
    values, scale = x
    # Row-wise scales need fast accumulation on Hopper; its sums still keep 14 bits.
    return torch._scaled_mm(
        values, weight.values.T, scale, weight.scale, bias, out_dtype=torch.bfloat16, use_fast_accum=True, out=out
    )  # fmt: skip
