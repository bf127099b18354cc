"""Fused element-wise kernels at the shape of a 768 x 1408 chunk, beside plain torch, with the bytes they move.

python kernels/bench/elementwise.py
"""

import numpy as np
import torch
from common import (
    COLS,
    DEVICE,
    HEAD_DIM,
    N_HEADS,
    ROWS,
    WINDOW_TOK,
    check,
    note,
    print_machine,
    relative_error,
    time_ms,
)
from torch.nn import functional as F

from flashvsr_cli.blend import Grain
from flashvsr_cli.enlarge import enlarge_levels
from flashvsr_cli.finish import finish_frames
from flashvsr_cli.geometry import plan_geometry
from flashvsr_cli.options import Settings
from flashvsr_kernels import reference
from flashvsr_kernels.fp8_attention import write_v
from flashvsr_kernels.norm import add_gated_, residual_layer_norm, rms_norm
from flashvsr_kernels.qk_rope import write_qk
from flashvsr_kernels.time_taps import stack_time

M = ROWS * COLS
N_TOK, DIM = M * WINDOW_TOK, N_HEADS * HEAD_DIM
FFN = 8960


def report(name, ms, n_bytes, ms_plain):
    print(f"{name:36} {ms * 1e3:8.1f} us {n_bytes / ms / 1e9:6.2f} TB/s   plain torch {ms_plain * 1e3:8.1f} us")
    note(op=name, ms=ms, plain_ms=ms_plain)


def bench_norms(normal):
    x, delta = normal(N_TOK, DIM), normal(N_TOK, DIM)
    gate, weight, bias = (normal(DIM).float() for _ in range(3))
    low = [t.bfloat16() for t in (gate, weight, bias)]
    total, normed = reference.residual_layer_norm(x, delta, gate, weight, bias, 1e-6)
    work = x.clone()
    got = residual_layer_norm(work, delta, gate, weight=weight, bias=bias)
    check("residual_layer_norm", max(relative_error(got, normed), relative_error(work, total)), 4e-3)

    def plain():
        summed = x + low[0] * delta
        return F.layer_norm(summed, (DIM,), eps=1e-6) * low[1] + low[2]

    size = x.numel() * 2
    ms = time_ms(lambda: residual_layer_norm(work, delta, gate, weight=weight, bias=bias))
    report("residual + LayerNorm + modulation", ms, 4 * size, time_ms(plain))
    extra = normal(N_TOK, DIM)
    ms = time_ms(lambda: residual_layer_norm(work, delta, gate, extra, weight=weight, bias=bias))
    report("the same and low-resolution tokens", ms, 5 * size, time_ms(lambda: (plain(), x + extra)))
    ms = time_ms(lambda: residual_layer_norm(x, weight=weight, bias=bias))
    report("LayerNorm + modulation", ms, 2 * size, time_ms(lambda: F.layer_norm(x, (DIM,)) * low[1] + low[2]))
    check("rms_norm", relative_error(rms_norm(x, low[1]), reference.rms_norm(x, low[1], 1e-6)), 4e-3)
    ms = time_ms(lambda: rms_norm(x, low[1]))
    report("RMS-norm", ms, 2 * size, time_ms(lambda: F.rms_norm(x, (DIM,), low[1], 1e-6)))
    ms = time_ms(lambda: add_gated_(work, delta, gate))
    report("gated residual", ms, 3 * size, time_ms(lambda: x + low[0] * delta))


def bench_qk(normal):
    q, k, v = normal(N_TOK, 3 * DIM).split(DIM, dim=1)
    weights = [normal(DIM) for _ in range(2)]
    angle = torch.rand(N_TOK, HEAD_DIM // 2, device=DEVICE) * 30
    cos, sin = angle.cos(), angle.sin()
    k_pages = torch.full((4, N_TOK, DIM), torch.nan, device=DEVICE).bfloat16()
    k_means = torch.full((4, M, N_HEADS, HEAD_DIM), torch.nan, device=DEVICE)
    new_pages = torch.tensor([2], dtype=torch.int32, device=DEVICE)

    def ours(pages=k_pages):
        return write_qk(
            q, k, *weights, cos, sin,
            k_pages=pages, k_means_pages=k_means, new_pages=new_pages, n_heads=N_HEADS,
        )  # fmt: skip

    def plain():
        parts = []
        for x, weight in ((q, weights[0]), (k, weights[1])):
            x = F.rms_norm(x, (DIM,), weight, 1e-6).unflatten(1, (N_HEADS, HEAD_DIM))
            x = reference.rotate(x, cos, sin).bfloat16()
            parts += [x, reference.window_means(x)]
        return parts

    q_out, q_means = ours()
    for got, x, weight in ((q_out, q, weights[0]), (k_pages[2], k, weights[1])):
        exact = reference.rms_norm_rope(x, weight, cos, sin, N_HEADS, 1e-6).flatten(1)
        check("write_qk", relative_error(got, exact), 4e-3)
    for means, x in ((q_means, q_out), (k_means[2], k_pages[2])):
        exact = reference.window_means(x.unflatten(1, (N_HEADS, HEAD_DIM)))
        check("window means", relative_error(means, exact), 1e-5)
    size = q.numel() * 2
    ms_plain = time_ms(plain)
    report("q, k: norm, RoPE, page, means", time_ms(ours), 4 * size, ms_plain)
    low_pages = k_pages.to(torch.float8_e4m3fn)
    report("the same in e4m3", time_ms(lambda: ours(low_pages)), 3 * size, ms_plain)
    v8 = torch.zeros(4, M, N_HEADS, HEAD_DIM, WINDOW_TOK, device=DEVICE).to(torch.float8_e4m3fn)
    scales = torch.zeros(4, M, N_HEADS, device=DEVICE)
    ms = time_ms(lambda: write_v(v, v_pages=v8, v_log2_scales=scales, new_pages=new_pages, n_heads=N_HEADS))
    print(f"{'v into an e4m3 page':36} {ms * 1e3:8.1f} us {1.5 * size / ms / 1e9:6.2f} TB/s")


def bench_gelu(normal):
    x, weight, bias = normal(N_TOK, DIM), normal(FFN, DIM) / 40, normal(FFN)
    plain = F.gelu(F.linear(x, weight, bias), approximate="tanh")
    exact = F.gelu(F.linear(x.float(), weight.float(), bias.float()), approximate="tanh")
    fused = torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    check("fused GELU", relative_error(fused, exact), 2 * relative_error(plain, exact))
    ms_fused = time_ms(lambda: torch._addmm_activation(bias, x, weight.t(), use_gelu=True))
    ms_plain = time_ms(lambda: F.gelu(F.linear(x, weight, bias), approximate="tanh"))
    ms_linear = time_ms(lambda: F.linear(x, weight, bias))
    print(f"linear {DIM}->{FFN}: {ms_linear:.3f} ms; + GELU {ms_plain:.3f}; in its epilogue {ms_fused:.3f} ms")


def bench_stack(normal):
    height, width = 8 * ROWS, 8 * COLS
    block, projection = {"n_taps": 2, "newest_first": True}, {"n_taps": 4, "stride": 2, "border": 1}
    for name, shape, how in (
        ("steps of a memory block, 128 channels", (1, 2, 8 * height, 8 * width, 128), block),
        ("slices of the projection, 768 channels", (1, 8, height, width, 768), projection),
    ):
        x = normal(*shape)
        front = normal(1, how["n_taps"] - how.get("stride", 1), *shape[2:])
        exact = reference.stack_time(x, front, **how)
        check(name, relative_error(stack_time(x, front, **how), exact), 0)
        n_bytes = 2 * (x.numel() + exact.numel())
        ms_plain = time_ms(lambda x=x, front=front, how=how: reference.stack_time(x, front, **how))
        report(name, time_ms(lambda x=x, front=front, how=how: stack_time(x, front, **how)), n_bytes, ms_plain)


def bench_frames(normal):
    """Before the model and behind it: eight frames become larger, and the decoder's become bytes."""
    height, width = 128 * ROWS, 128 * COLS
    geometry = plan_geometry((height // 4, width // 4), 4)
    images = (normal(8, *geometry.source, 3) * 60 + 128).clamp(0, 255).to(torch.uint8)
    levels = enlarge_levels(images, geometry)
    check("enlargement", relative_error(enlarge_levels(images, geometry, has_kernels=True), levels), 0)
    ms = time_ms(lambda: enlarge_levels(images, geometry, has_kernels=True))
    # The frames, twice what is wide and not yet high, and the result.
    report("frames enlarged", ms, levels.numel() * 1.5625, time_ms(lambda: enlarge_levels(images, geometry)))
    levels = levels[..., :height, :width]
    x, settings, grain = normal(*levels.shape) / 2, Settings(), Grain(0, 0, 0, images.device)

    def finish(has_kernels):
        return finish_frames(x, levels, settings, grain, np.dtype(np.uint8), has_kernels=has_kernels)

    check("colour to bytes", (finish(True).int() - finish(False).int()).abs().max().item(), 1)
    ms = time_ms(lambda: finish(True))
    report("colour fix to bytes", ms, 6 * x.numel(), time_ms(lambda: finish(False)))


def main():
    generator = torch.Generator(DEVICE).manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE).bfloat16()

    print_machine()
    bench_norms(normal)
    bench_qk(normal)
    bench_stack(normal)
    bench_frames(normal)
    if DEVICE == "cuda":  # on a CPU that operator computes another GELU
        bench_gelu(normal)


if __name__ == "__main__":
    main()
