"""The decoder's last convolution at full size, (1, 128, 768, 1408) to three channels, beside cuDNN.

python kernels/bench/pixel_conv.py
"""

import torch
from common import DEVICE, IS_TOY, check, note, print_machine, relative_error, time_ms
from torch.nn import functional as F

from flashvsr_kernels import pixel_conv

SHAPE = (1, 128, 16, 32) if IS_TOY else (1, 128, 768, 1408)


def main():
    generator = torch.Generator(DEVICE).manual_seed(13)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE).bfloat16()

    print_machine()
    x = normal(*SHAPE).relu_().contiguous(memory_format=torch.channels_last)
    weight = (normal(3, SHAPE[1], 3, 3) / 34).contiguous(memory_format=torch.channels_last)
    bias = normal(3)
    exact = torch.cat([F.conv2d(frame[None].float(), weight.float(), bias.float(), padding=1) for frame in x])
    plain = F.conv2d(x, weight, bias, padding=1)
    limit = 2 * relative_error(plain, exact)
    n_bytes = x.numel() * x.element_size()

    def report(name, ms):
        print(f"{name:32} {ms:8.3f} ms {n_bytes / ms / 1e9:6.2f} TB/s of input")
        note(kernel=name, ms=ms)

    report("cuDNN", time_ms(lambda: F.conv2d(x, weight, bias, padding=1)))
    arranged = pixel_conv.arrange_weight(weight)
    for block_x, rows in ((64, 16), (64, 8), (64, 32), (128, 16), (128, 32))[: 1 if IS_TOY else None]:
        pixel_conv.BLOCK_X, pixel_conv.ROWS = block_x, rows
        check("conv_to_rgb", relative_error(pixel_conv.conv_to_rgb(x, arranged, bias), exact), limit)
        report(f"ours, {block_x} columns, {rows} rows", time_ms(lambda: pixel_conv.conv_to_rgb(x, arranged, bias)))


if __name__ == "__main__":
    main()
