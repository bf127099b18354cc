"""What is mixed into the model's picture after the colour fix: the plain enlargement, and the source's own grain.

Both work frame by frame on (T, 3, H, W) float tensors in [-1, 1]; a frame's grain depends on seed, frame number and
that frame alone, so that it does not matter how a clip was cut or resumed.
"""

from collections import deque
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.enlarge import PEAK

LUMA_WEIGHTS = (0.2126, 0.7152, 0.0722)
N_KNOTS = 9
BLOCK = 8
FLAT_FRACTION = 0.25
MIN_FLAT_BLOCKS = 12
# A block whose luma is clipped for the most part hides its noise.
CLIP_MARGIN = 0.02
PLATE_SIDE = 1024
PATCH_SIDE = 256
GRAIN_KEY = 0x67726169
# Standard deviation of white noise of deviation 1 behind each filter.
LAPLACIAN_GAIN = 6.0
PLATE_KERNEL = (0.25, 1.0, 0.25)


def blend(x: Tensor, plain: Tensor, strength: float) -> Tensor:
    """Mix the model's frames with the plain enlargement.

    Args:
        x: (T, 3, H, W) float in [-1, 1], behind the colour fix.
        plain: the same of the enlarged input.
        strength: 1 gives `x`, 0 gives `plain`, both exactly.
    """
    if strength == 1:
        return x
    return plain + strength * (x - plain) if strength else plain


def measure_grain(frames: Tensor) -> Tensor:
    """How noisy flat areas are, depending on their brightness.

    Blocks of 8 x 8 pixels whose blurred content changes least are taken as flat; their noise is what a Laplacian leaves
    of them. Brightnesses without flat blocks take their neighbours' value.

    Source: the Laplacian is Immerkær's, "Fast Noise Variance Estimation" (1996); the choice of blocks
    is this project's.

    Args:
        frames: (T, H, W, 3) uint8 or uint16.

    Returns:
        (T, 9) float32 on the CPU: standard deviation of the luma, in [0, 1], at luma 0, 1/8, ..., 1.
    """
    luma = frames.float() @ frames.new_tensor(LUMA_WEIGHTS, dtype=torch.float32) / PEAK[frames.dtype]
    height, width = (side // BLOCK * BLOCK for side in luma.shape[1:])
    if min(height, width) < 2 * BLOCK:
        return torch.zeros(len(frames), N_KNOTS)
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")
    line = luma.new_tensor([1.0, -2.0, 1.0])
    noise = F.conv2d(padded, torch.outer(line, line)[None, None]) / LAPLACIAN_GAIN
    smooth = F.avg_pool2d(luma[:, None], BLOCK // 2, stride=BLOCK // 2)
    level = F.avg_pool2d(smooth, 2)
    structure = F.max_pool2d(smooth, 2) + F.max_pool2d(-smooth, 2)
    variance = F.avg_pool2d(noise[..., :height, :width] ** 2, BLOCK)
    blocks = (level.flatten(1), structure.flatten(1), variance.flatten(1))
    curves = [_fit_curve(*frame) for frame in zip(*(part.cpu().numpy() for part in blocks), strict=True)]
    return torch.from_numpy(np.stack(curves))


def _fit_curve(level: np.ndarray, structure: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Deviation per brightness from the blocks of one frame: three arrays (n_blocks,) to (9,) float32."""
    knots = np.linspace(0, 1, N_KNOTS)
    nearest = np.round(level * (N_KNOTS - 1)).astype(int)
    is_usable = (level > CLIP_MARGIN) & (level < 1 - CLIP_MARGIN)
    known, deviations = [], []
    for i_knot in range(N_KNOTS):
        chosen = np.flatnonzero((nearest == i_knot) & is_usable)
        if len(chosen) >= MIN_FLAT_BLOCKS:
            n_flat = max(MIN_FLAT_BLOCKS, int(len(chosen) * FLAT_FRACTION))
            flattest = chosen[np.argpartition(structure[chosen], n_flat - 1)[:n_flat]]
            known.append(knots[i_knot])
            # The median over blocks: one with a fine edge in it must not count.
            deviations.append(np.sqrt(np.median(variance[flattest])))
    if not known:
        return np.zeros(N_KNOTS, np.float32)
    return np.interp(knots, known, deviations).astype(np.float32)


class Grain:
    """Lays every frame's own grain over its enlargement, for the frames of one shot in order.

    Args:
        amount: 1 is as strong as measured; 0 does nothing at all.
        seed: with the frame's number decides the grain.
        first_frame: number in the clip of the first frame.
        device: where the frames are.
    """

    def __init__(self, amount: float, seed: int, first_frame: int, device: torch.device) -> None:
        self._amount, self._seed, self._i_frame = amount, seed, first_frame
        self._curves: deque[Tensor] = deque()
        self._plate = draw_plate(seed, device) if amount else torch.empty(0)

    def read(self, frames: Tensor) -> None:
        """Measure source frames (T, H, W, 3), uint8 or uint16, that come after those read before."""
        if self._amount:
            self._curves.extend(measure_grain(frames))

    def add(self, x: Tensor) -> Tensor:
        """Lay grain over the next frames (T, 3, H, W) in [-1, 1]; they have been read."""
        if not self._amount or not len(x):
            return x
        position = to_luma(x) * (N_KNOTS - 1)
        below = position.floor().clamp(max=N_KNOTS - 2).long()
        grain = []
        for index, where in zip(below, position, strict=True):
            curve = (2 * self._amount * self._curves.popleft()).to(x)
            deviation = torch.lerp(curve[index], curve[index + 1], where - index)
            grain.append(deviation * self._texture((x.shape[2], x.shape[3])))
            self._i_frame += 1
        return (x + torch.stack(grain)[:, None]).clamp(-1, 1)

    def _texture(self, size: tuple[int, int]) -> Tensor:
        """Unit noise (H, W): patches from places of the plate that are drawn anew for every frame."""
        generator = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(GRAIN_KEY, self._i_frame)))
        texture = self._plate.new_empty(size)
        for top in range(0, size[0], PATCH_SIDE):
            for left in range(0, size[1], PATCH_SIDE):
                patch = texture[top : top + PATCH_SIDE, left : left + PATCH_SIDE]
                y, x = generator.integers(0, PLATE_SIDE, 2)
                patch.copy_(self._plate[y : y + patch.shape[0], x : x + patch.shape[1]])
        return texture


def to_luma(x: Tensor) -> Tensor:
    """(T, 3, H, W) in [-1, 1] -> (T, H, W) in [0, 1]."""
    # Element by element: a product of matrices would round differently for another number of frames.
    red, green, blue = (weight * x[:, channel] for channel, weight in enumerate(LUMA_WEIGHTS))
    return (red + green + blue).add(1).div(2).clamp(0, 1)


@lru_cache(maxsize=2)
def draw_plate(seed: int, device: torch.device) -> Tensor:
    """Noise of deviation 1, a little softer than white, that repeats after 1024 pixels: (1280, 1280) float32."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(GRAIN_KEY,)))
    white = torch.from_numpy(generator.standard_normal((1, 1, PLATE_SIDE, PLATE_SIDE), dtype=np.float32))
    line = torch.tensor(PLATE_KERNEL)
    kernel = torch.outer(line, line)
    plate = F.conv2d(F.pad(white, (1, 1, 1, 1), mode="circular"), kernel[None, None] / kernel.norm())
    # Longer than its period by a patch, so that a patch can be taken from anywhere.
    return F.pad(plate, (0, PATCH_SIDE, 0, PATCH_SIDE), mode="circular")[0, 0].to(device)
