# mypy: disallow-untyped-defs=False
# (Triton traces the arguments of its kernels; annotations there mean constexpr or nothing.)
"""Normalisations fused with what surrounds them, so that each activation crosses memory once.

`residual_layer_norm` adds a gated branch to the residual stream and normalises the sum in one pass; modulation
and the affine case are the same arithmetic with different vectors. All sums are float32, rounded once at the end.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from flashvsr_kernels import interpreter  # noqa: F401
from flashvsr_kernels.fp8_scale import fp8_scale

ROWS_PER_PROGRAM = 4


@triton.jit
def _residual_layer_norm_kernel(
    x_ptr,
    delta_ptr,
    gate_ptr,
    extra_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    scale_ptr,
    n_tok,
    dim,
    stride_delta,
    stride_extra,
    eps,
    HAS_DELTA: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_EXTRA: tl.constexpr,
    QUANTIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_tok = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    # Vectors of 8 for every dtype: the 16 that e4m3 would get make everything change threads on its way to memory.
    o_d = tl.max_contiguous(tl.arange(0, BLOCK_D), 8)
    m_d = o_d < dim
    mask = (i_tok < n_tok)[:, None] & m_d[None, :]
    p_x = x_ptr + i_tok[:, None] * dim + o_d[None, :]
    x = tl.load(p_x, mask=mask, other=0.0).to(tl.float32)
    if HAS_DELTA:
        delta = tl.load(delta_ptr + i_tok[:, None] * stride_delta + o_d[None, :], mask=mask, other=0.0)
        delta = delta.to(tl.float32)
        if HAS_GATE:
            delta *= tl.load(gate_ptr + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]
        x += delta
    if HAS_EXTRA:
        p_extra = extra_ptr + i_tok[:, None] * stride_extra + o_d[None, :]
        x += tl.load(p_extra, mask=mask, other=0.0).to(tl.float32)
    if HAS_DELTA or HAS_EXTRA:
        # The sum is rounded as it is stored: the next block must see what this norm saw.
        stored = x.to(x_ptr.dtype.element_ty)
        tl.store(p_x, stored, mask=mask)
        x = stored.to(tl.float32)
    mean = tl.sum(x, 1) / dim
    centred = tl.where(m_d[None, :], x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / dim + eps)
    weight = tl.load(weight_ptr + o_d, mask=m_d, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + o_d, mask=m_d, other=0.0).to(tl.float32)
    out = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    if QUANTIZE:
        out = tl.where(m_d[None, :], out, 0.0)
        scale = fp8_scale(tl.max(tl.abs(out), 1))
        out *= (1 / scale)[:, None]
        tl.store(scale_ptr + i_tok, scale, mask=i_tok < n_tok)
    p_out = out_ptr + i_tok[:, None] * dim + o_d[None, :]
    tl.store(p_out, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    n_tok,
    dim,
    stride_x,
    eps,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_tok = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < dim
    mask = (i_tok < n_tok)[:, None] & m_d[None, :]
    x = tl.load(x_ptr + i_tok[:, None] * stride_x + o_d[None, :], mask=mask, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, 1) / dim + eps)
    weight = tl.load(weight_ptr + o_d, mask=m_d, other=0.0).to(tl.float32)
    out = x * rstd[:, None] * weight[None, :]
    tl.store(out_ptr + i_tok[:, None] * dim + o_d[None, :], out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _add_gated_kernel(
    x_ptr,
    delta_ptr,
    gate_ptr,
    n_tok,
    dim,
    stride_delta,
    HAS_GATE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_tok = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < dim
    mask = (i_tok < n_tok)[:, None] & m_d[None, :]
    delta = tl.load(delta_ptr + i_tok[:, None] * stride_delta + o_d[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_GATE:
        delta *= tl.load(gate_ptr + o_d, mask=m_d, other=0.0).to(tl.float32)[None, :]
    p_x = x_ptr + i_tok[:, None] * dim + o_d[None, :]
    x = tl.load(p_x, mask=mask, other=0.0).to(tl.float32) + delta
    tl.store(p_x, x.to(x_ptr.dtype.element_ty), mask=mask)


def _check_tokens(name: str, x: Tensor, dim: int) -> None:
    if x.dim() != 2 or x.shape[1] != dim or x.stride(1) != 1:
        raise ValueError(f"{name} is (n_tok, {dim}) with contiguous channels, not {tuple(x.shape)}")


def _check_vector(name: str, x: Tensor | None, dim: int) -> None:
    if x is not None and (x.shape != (dim,) or not x.is_contiguous()):
        raise ValueError(f"{name} is ({dim},), not {tuple(x.shape)}")


def residual_layer_norm(
    x: Tensor,
    delta: Tensor | None = None,
    gate: Tensor | None = None,
    extra: Tensor | None = None,
    *,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
) -> Tensor:
    """Adds `gate * delta + extra` to x in place and returns LayerNorm(x) * weight + bias.

    Args:
        x: (n_tok, dim), contiguous, changed in place if there is something to add.
        delta: (n_tok, dim), the branch to add; rows may be strided.
        gate: (dim,), one if omitted.
        extra: like delta, added without a gate.
        weight: (dim,); 1 + scale for modulation. Best kept in float32.
        bias: (dim,); shift for modulation.
        eps: added to the variance.

    Returns:
        (n_tok, dim) in the dtype of x.

    Raises:
        ValueError: if shapes or strides do not fit together, or there is a gate without a delta.
    """
    out = torch.empty_like(x)
    _launch_residual_layer_norm(x, delta, gate, extra, weight, bias, out, None, eps)
    return out


def residual_layer_norm_fp8(
    x: Tensor,
    delta: Tensor | None = None,
    gate: Tensor | None = None,
    extra: Tensor | None = None,
    *,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """`residual_layer_norm` for a linear layer in e4m3: the result with a scale per token.

    Returns:
        (n_tok, dim) float8_e4m3fn and (n_tok, 1) float32; their product is the norm.

    Raises:
        ValueError: if shapes or strides do not fit together, or there is a gate without a delta.
    """
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device)
    _launch_residual_layer_norm(x, delta, gate, extra, weight, bias, out, scale, eps)
    return out, scale


def _launch_residual_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    gate: Tensor | None,
    extra: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    scale: Tensor | None,
    eps: float,
) -> None:
    n_tok, dim = x.shape
    if not x.is_contiguous():
        raise ValueError("the residual stream is contiguous")
    if gate is not None and delta is None:
        raise ValueError("a gate needs something to gate")
    for name, tokens in (("delta", delta), ("extra", extra)):
        if tokens is not None:
            _check_tokens(name, tokens, dim)
    for name, vector in (("gate", gate), ("weight", weight), ("bias", bias)):
        _check_vector(name, vector, dim)
    _residual_layer_norm_kernel[(triton.cdiv(n_tok, ROWS_PER_PROGRAM),)](
        x, delta, gate, extra, weight, bias, out, scale, n_tok, dim,
        0 if delta is None else delta.stride(0), 0 if extra is None else extra.stride(0), eps,
        HAS_DELTA=delta is not None, HAS_GATE=gate is not None, HAS_EXTRA=extra is not None,
        QUANTIZE=scale is not None, ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(dim), num_warps=8,
    )  # fmt: skip


def add_gated_(x: Tensor, delta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Adds `gate * delta` to x in place: (n_tok, dim), (n_tok, dim), (dim,) -> x.

    Raises:
        ValueError: if shapes or strides do not fit together.
    """
    n_tok, dim = x.shape
    if not x.is_contiguous():
        raise ValueError("the residual stream is contiguous")
    _check_tokens("delta", delta, dim)
    _check_vector("gate", gate, dim)
    _add_gated_kernel[(triton.cdiv(n_tok, ROWS_PER_PROGRAM),)](
        x, delta, gate, n_tok, dim, delta.stride(0),
        HAS_GATE=gate is not None, ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(dim), num_warps=8,
    )  # fmt: skip
    return x


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS-norm over the whole last dimension: (n_tok, dim), (dim,) -> (n_tok, dim) in the dtype of x.

    Raises:
        ValueError: if shapes or strides do not fit together.
    """
    n_tok, dim = x.shape
    _check_tokens("x", x, dim)
    _check_vector("weight", weight, dim)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rms_norm_kernel[(triton.cdiv(n_tok, ROWS_PER_PROGRAM),)](
        x, weight, out, n_tok, dim, x.stride(0), eps,
        ROWS=ROWS_PER_PROGRAM, BLOCK_D=triton.next_power_of_2(dim), num_warps=8,
    )  # fmt: skip
    return out
