"""Pictures to clips by a moving camera: pan, zoom, rotation, shake, and a second layer that moves on its own."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Random = np.random.Generator
DETAIL_CELLS = (12, 16)
MAX_STEP = 1.5
"""Picture pixels per clip pixel at which the next smaller copy of the picture is taken."""


@dataclass(frozen=True)
class Picture:
    """A picture ready to be looked at.

    Attributes:
        levels: the picture and its copies of half the size each, (1, 3, H, W) uint8, largest first.
        detail: (rows, columns), how much there is to see in every cell, as shares of 1.
    """

    levels: tuple[Tensor, ...]
    detail: np.ndarray

    @classmethod
    def of(cls, image: Tensor) -> "Picture":
        """From (3, H, W) uint8."""
        levels = [image[None]]
        while min(levels[-1].shape[-2:]) >= 512:
            # Areas of 2x2 pixels leave a soft picture; the antialiased cubic kernel keeps its edges.
            half = F.interpolate(
                levels[-1].float(), scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False
            )
            levels.append(half.clamp(0, 255).round().to(torch.uint8))
        grey = image.float().mean(dim=0, keepdim=True)[None]
        edges = grey.diff(dim=-1).abs()[..., 1:, :] + grey.diff(dim=-2).abs()[..., 1:]
        detail = F.adaptive_avg_pool2d(edges, DETAIL_CELLS)[0, 0].sqrt() + 0.2
        return cls(tuple(levels), (detail / detail.sum()).double().cpu().numpy())

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the largest level."""
        return int(self.levels[0].shape[-2]), int(self.levels[0].shape[-1])


def draw_path(rng: Random, n_frames: int, size: int, speed: float) -> np.ndarray:
    """Camera parameters (n_frames, 4): x, y in clip pixels, logarithm of the zoom, angle; all relative to frame 0."""
    time = np.arange(n_frames)[:, None] / 24.0
    direction = rng.uniform(0, 2 * math.pi)
    pace = speed * size * rng.uniform(0, 1) ** 2
    velocity = np.array([pace * math.cos(direction), pace * math.sin(direction), *rng.normal(0, (0.1, 0.08))])
    turn = rng.normal(0, 1, 4) * np.array([0.2 * pace, 0.2 * pace, 0.05, 0.05])
    path = velocity * time + turn * time**2
    if rng.random() < 0.4:
        shake = rng.normal(0, rng.uniform(0.2, 2.0), (n_frames, 2))
        path[:, :2] += np.cumsum(shake, axis=0) * 0.5 + shake
    if rng.random() < 0.12:
        path[:] = 0  # A still camera is common, and flicker shows there first.
    return path - path[0]


def render_clip(picture: Picture, rng: Random, n_frames: int, size: tuple[int, int], *, speed: float = 0.4) -> Tensor:
    """A camera moving over the picture.

    Args:
        picture: what it sees.
        rng: decides place, size and movement.
        n_frames: frames.
        size: (height, width) of the frames.
        speed: fastest movement in frame widths per second (24 frames).

    Returns:
        (n_frames, 3, height, width) float32, levels 0..255.
    """
    path = draw_path(rng, n_frames, size[1], speed)
    height, width = picture.size
    largest = min(height / size[0], width / size[1])
    step = float(np.exp(rng.uniform(math.log(min(1.0, largest)), math.log(max(1.0, min(0.9 * largest, 3.0))))))
    steps = step * np.exp(-path[:, 2])
    level = min(int(max(0.0, math.log2(max(step, 1e-3) / MAX_STEP) + 1)), len(picture.levels) - 1)
    half_w, half_h = size[1] / 2 * step, size[0] / 2 * step
    # Places with something to see come up more often than empty sky.
    cell = rng.choice(picture.detail.size, p=picture.detail.ravel() / picture.detail.sum())
    rows, columns = picture.detail.shape
    x = (cell % columns + rng.random()) * width / columns
    y = (cell // columns + rng.random()) * height / rows
    centre = np.array(
        [
            np.clip(x, min(half_w, width / 2), max(width - half_w, width / 2)),
            np.clip(y, min(half_h, height / 2), max(height - half_h, height / 2)),
        ]
    )
    angle = rng.normal(0, 0.1) + path[:, 3]
    centres = centre + path[:, :2] * step
    # Affine maps from clip coordinates in [-1, 1] to picture coordinates in [-1, 1].
    cosine, sine = np.cos(angle) * steps, np.sin(angle) * steps
    theta = np.empty((n_frames, 2, 3))
    theta[:, 0, 0], theta[:, 0, 1] = cosine * size[1] / width, -sine * size[0] / width
    theta[:, 1, 0], theta[:, 1, 1] = sine * size[1] / height, cosine * size[0] / height
    theta[:, 0, 2] = centres[:, 0] / width * 2 - 1
    theta[:, 1, 2] = centres[:, 1] / height * 2 - 1
    source = picture.levels[level].float()
    grid = F.affine_grid(torch.from_numpy(theta).float().to(source.device), [n_frames, 3, *size], align_corners=False)
    clip = F.grid_sample(
        source.expand(n_frames, -1, -1, -1), grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return clip.clamp(0, 255)


def draw_mask(rng: Random, n_frames: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """A smooth blob that moves: (n_frames, 1, height, width) in 0..1 with an edge two pixels wide."""
    path = draw_path(rng, n_frames, size[1], 0.8)
    height, width = size
    row = torch.arange(height, device=device)[None, :, None]
    column = torch.arange(width, device=device)[None, None, :]
    centre = rng.uniform((0, 0), (width, height))
    moved = torch.from_numpy(centre + path[:, :2]).float().to(device)
    x, y = column - moved[:, 0, None, None], row - moved[:, 1, None, None]
    angle = torch.atan2(y, x)
    radius = torch.full_like(angle, float(rng.uniform(0.12, 0.35)) * height)
    for lobes in (2, 3, 5):
        radius = radius * (1 + float(rng.uniform(0, 0.25)) * torch.sin(lobes * angle + float(rng.uniform(0, 6.3))))
    return ((radius - (x.square() + y.square()).sqrt()) / 2 + 0.5).clamp(0, 1)[:, None]


def render_layers(back: Picture, front: Picture | None, rng: Random, n_frames: int, size: tuple[int, int]) -> Tensor:
    """A clip of one picture, or of two with the nearer one passing in front; shaped as `render_clip`."""
    clip = render_clip(back, rng, n_frames, size)
    if front is None:
        return clip
    near = render_clip(front, rng, n_frames, size, speed=0.8)
    mask = draw_mask(rng, n_frames, size, clip.device)
    return clip + mask * (near - clip)
