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
def _load_row(p_x, o_d, mask, GELU: tl.constexpr):
    x = tl.load(p_x + o_d, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        # x / 2 * (1 + tanh(y)) = x / (1 + exp(-2 y)), y = sqrt(2 / pi) * (x + 0.044715 x^3); the factor counts in log2.
        x = x / (1 + tl.exp2(-2.302208198 * (x + 0.044715 * x * x * x)))
    return x


@triton.jit
def _quantize_rows_kernel(
    x_ptr, out_ptr, scale_ptr, dim, stride_x, GELU: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_REST: tl.constexpr
):
    p_x = x_ptr + tl.program_id(0).to(tl.int64) * stride_x
    p_out = out_ptr + tl.program_id(0).to(tl.int64) * dim
    # A row stays in registers between its largest value and its scaling. In two tiles: one of the next power of two
    # would be half empty where a row is little longer than a power of two.
    o_d = tl.arange(0, BLOCK_D)
    x = _load_row(p_x, o_d, o_d < dim, GELU)
    largest = tl.max(tl.abs(x), 0)
    if BLOCK_REST > 0:
        o_rest = BLOCK_D + tl.arange(0, BLOCK_REST)
        rest = _load_row(p_x, o_rest, o_rest < dim, GELU)
        largest = tl.maximum(largest, tl.max(tl.abs(rest), 0))
    scale = fp8_scale(largest)
    tl.store(scale_ptr + tl.program_id(0), scale)
    tl.store(p_out + o_d, (x * (1 / scale)).to(tl.float8e4nv), mask=o_d < dim)
    if BLOCK_REST > 0:
        tl.store(p_out + o_rest, (rest * (1 / scale)).to(tl.float8e4nv), mask=o_rest < dim)


def row_tiles(dim: int) -> tuple[int, int]:
    """Two powers of two that cover a row, the second 0 where one does."""
    whole = triton.next_power_of_2(dim + 1) // 2
    rest = dim - whole
    return whole, triton.next_power_of_2(rest) if rest else 0


def _quantize(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or x.stride(1) != 1:
        raise ValueError(f"x is (n_tok, dim) with contiguous channels, not {tuple(x.shape)}")
    n_tok, dim = x.shape
    out = torch.empty(n_tok, dim, dtype=FP8, device=x.device)
    scale = torch.empty(n_tok, 1, dtype=torch.float32, device=x.device)
    block_d, block_rest = row_tiles(dim)
    _quantize_rows_kernel[(n_tok,)](
        x, out, scale, dim, x.stride(0),
        GELU=gelu, BLOCK_D=block_d, BLOCK_REST=block_rest, num_warps=8 if block_d >= 4096 else 4,
    )  # fmt: skip
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
