"""The DiT's linear layers at the shape of a 768 x 1408 chunk: bf16 beside e4m3, quantisation included.

python kernels/bench/linear.py
"""

import torch
from common import (
    COLS,
    DEVICE,
    ROWS,
    WINDOW_TOK,
    check,
    matmul_ceiling_tflops,
    note,
    print_machine,
    relative_error,
    time_ms,
)
from torch.nn import functional as F

from flashvsr_kernels.fp8_linear import (
    Fp8Weight,
    fp8_linear,
    gelu_quantize_rows,
    quantize_rows,
    residual_layer_norm_fp8,
)
from flashvsr_kernels.norm import residual_layer_norm

N_TOK, DIM, FFN = ROWS * COLS * WINDOW_TOK, 1536, 8960


def bench_layer(x, weight, bias):
    low, low_weight = quantize_rows(x), Fp8Weight.of(weight)
    exact = F.linear(low[0].float() * low[1], low_weight.values.float() * low_weight.scale.T, bias.float())
    check("fp8_linear", relative_error(fp8_linear(low, low_weight, bias), exact), 6e-3)
    ms = time_ms(lambda: torch.addmm(bias, x, weight.T))
    ms_low = time_ms(lambda: fp8_linear(low, low_weight, bias))
    ms_quantise = time_ms(lambda: quantize_rows(x))
    n_out, n_in = weight.shape
    rate, rate_low = (2 * x.shape[0] * n_in * n_out / 1e9 / t for t in (ms, ms_low))
    print(f"{n_in:5} -> {n_out:5}   {ms:8.3f} {rate:8.0f} {ms_low:8.3f} {rate_low:8.0f} {ms_quantise:12.4f}")
    note(layer=f"{n_in} -> {n_out}", ms=ms, fp8_ms=ms_low, quantise_ms=ms_quantise)


def main():
    if DEVICE == "cpu":
        print("scaled products in e4m3 need a GPU")
        return
    generator = torch.Generator(DEVICE).manual_seed(9)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE).bfloat16()

    print_machine()
    print(f"bf16 matrix product: {matmul_ceiling_tflops():.0f} TFLOP/s")
    print(f"{'layer':16} {'bf16 ms':>8} {'TFLOP/s':>8} {'e4m3 ms':>8} {'TFLOP/s':>8} {'quantise ms':>12}")
    for n_in, n_out in ((DIM, DIM), (DIM, 2 * DIM), (DIM, 3 * DIM), (DIM, FFN), (FFN, DIM)):
        bench_layer(normal(N_TOK, n_in), normal(n_out, n_in) / n_in**0.5, normal(n_out))
    x, delta, wide = normal(N_TOK, DIM), normal(N_TOK, DIM), normal(N_TOK, FFN)
    vectors = [normal(DIM).float() for _ in range(3)]
    arguments = (vectors[0],)
    keywords = {"weight": vectors[1], "bias": vectors[2]}
    ms = time_ms(lambda: residual_layer_norm(x, delta, *arguments, **keywords))
    ms_low = time_ms(lambda: residual_layer_norm_fp8(x, delta, *arguments, **keywords))
    print(f"residual + layer norm: {ms * 1e3:.1f} us to bf16, {ms_low * 1e3:.1f} us to e4m3")
    print(f"GELU to e4m3, {FFN} channels: {time_ms(lambda: gelu_quantize_rows(wide)) * 1e3:.1f} us")


if __name__ == "__main__":
    main()
