"""How exact this device's float32 is where the model has its longest sums: error against float64, relative RMS.

python kernels/bench/float32.py

A convolution of the projection's length, 3072 channels of 3x3, added up in one go and in parts; and the feed-forward's
first product with its GELU, in the product's epilogue and apart.
"""

import torch
from common import DEVICE, IS_TOY, print_machine
from torch.nn import functional as F

CHANNELS, RESULTS = (64, 4) if IS_TOY else (3072, 32)
N_TOK, DIM, FFN = (8, 16, 32) if IS_TOY else (2048, 1536, 8960)
PARTS = (1, 4, 12, 24)


def error(x, exact):
    return ((x.double() - exact).norm() / exact.norm()).item()


def print_convolution():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(8, CHANNELS, 18, 26, generator=generator) * 2 - 1).to(DEVICE)
    weight = (torch.randn(RESULTS, CHANNELS, 3, 3, generator=generator) / (9 * CHANNELS) ** 0.5).to(DEVICE)
    # Some channels at a time in float64 as well: no device has that much workspace to spare.
    pairs = zip(x.split(256, 1), weight.split(256, 1), strict=True)
    exact = sum(F.conv2d(part.double(), taps.double()) for part, taps in pairs)
    for layout in (torch.contiguous_format, torch.channels_last):
        for n_parts in PARTS:
            pairs = zip(x.chunk(n_parts, 1), weight.chunk(n_parts, 1), strict=True)
            y = sum(
                F.conv2d(part.contiguous(memory_format=layout), taps.contiguous(memory_format=layout))
                for part, taps in pairs
            )
            print(f"{9 * CHANNELS} products in {n_parts:2} parts, {layout}: {error(y, exact):.2e}")


def print_gelu():
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator, device=DEVICE) for s in ((N_TOK, DIM), (FFN, DIM), (FFN,)))
    weight /= DIM**0.5
    for dtype in (torch.float32, torch.bfloat16):
        a, b, c = (t.to(dtype) for t in (x, weight, bias))
        exact = F.gelu(a.double() @ b.double().T + c.double(), approximate="tanh")
        apart = error(F.gelu(torch.addmm(c, a, b.T), approximate="tanh"), exact)
        print(f"GELU, {dtype}: apart {apart:.2e}")
        if DEVICE == "cuda":  # on a CPU that operator computes another GELU
            print(f"  in the epilogue {error(torch._addmm_activation(c, a, b.T, use_gelu=True), exact):.2e}")


def main():
    torch.backends.cudnn.allow_tf32 = False
    print_machine()
    print_convolution()
    print_gelu()


if __name__ == "__main__":
    main()
