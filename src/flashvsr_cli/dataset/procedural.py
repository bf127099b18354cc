"""Pictures from nothing: dead leaves, textures, text, edges and gradients, in any mixture."""

import math
import string

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.errors import UsageError

Random = np.random.Generator


def draw_color(rng: Random) -> np.ndarray:
    """A colour (3,) in 0..1, grey more often than bright."""
    base = rng.uniform(0, 1)
    return np.clip(base + rng.normal(0, rng.uniform(0, 0.35), 3), 0, 1)


def _fill(shape: Tensor, color: np.ndarray) -> Tensor:
    return torch.from_numpy(color).float().to(shape.device)[:, None, None].expand(3, *shape.shape)


def colored_noise(rng: Random, side: int, device: torch.device) -> Tensor:
    """Noise whose power falls with frequency, in two colours: (3, side, side) in 0..1."""
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
    white = torch.randn((side, side), generator=generator, device=device)
    row, column = torch.fft.fftfreq(side, device=device)[:, None], torch.fft.rfftfreq(side, device=device)[None]
    stretch = float(np.exp(rng.uniform(-1, 1)))
    frequency = ((row * stretch).square() + (column / stretch).square()).sqrt().clamp(min=1 / side)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency ** float(rng.uniform(0.4, 1.6)), s=(side, side))
    mixture = (noise / noise.std() * float(rng.uniform(0.1, 0.35)) + 0.5).clamp(0, 1)
    first, second = (_fill(mixture, draw_color(rng)) for _ in range(2))
    return first + mixture * (second - first)


def stripes(rng: Random, side: int, device: torch.device) -> Tensor:
    """Soft or hard stripes, rings or a chequered pattern: (3, side, side) in 0..1."""
    x, y = _coordinates(rng, side, device)
    period = float(np.exp(rng.uniform(math.log(5), math.log(80))))
    kind = rng.integers(3)
    phase = (x if kind < 2 else (x.square() + y.square()).sqrt()) * (2 * math.pi / period)
    wave = torch.sin(phase)
    if kind == 1:
        wave = wave * torch.sin(y * (2 * math.pi / period))
    sharpness = float(np.exp(rng.uniform(0, 3)))
    mixture = torch.sigmoid(wave * sharpness * min(period / 4, 4))
    first, second = (_fill(mixture, draw_color(rng)) for _ in range(2))
    return first + mixture * (second - first)


def gradient(rng: Random, side: int, device: torch.device) -> Tensor:
    """A slope between two colours: (3, side, side) in 0..1."""
    x, _ = _coordinates(rng, side, device)
    mixture = ((x / side) * float(rng.uniform(0.5, 2)) + 0.5).clamp(0, 1)
    first, second = (_fill(mixture, draw_color(rng)) for _ in range(2))
    return first + mixture * (second - first)


def _coordinates(rng: Random, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Turned pixel coordinates around a random centre, two of (side, side)."""
    angle, centre = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.8, 2) * side
    column = torch.arange(side, device=device)[None, :] - float(centre[0])
    row = torch.arange(side, device=device)[:, None] - float(centre[1])
    return column * math.cos(angle) + row * math.sin(angle), row * math.cos(angle) - column * math.sin(angle)


def dead_leaves(rng: Random, canvas: Tensor, n_leaves: int) -> Tensor:
    """Opaque discs and polygons with textures, largest first, laid over the canvas (3, side, side)."""
    side = canvas.shape[-1]
    # Radii follow r^-3 between two limits, as in natural scenes.
    low, high = side * 0.006, side * 0.25
    draws = rng.uniform(0, 1, n_leaves)
    radii = np.sort((low**-2 + draws * (high**-2 - low**-2)) ** -0.5)[::-1]
    textures = [colored_noise(rng, side, canvas.device) for _ in range(2)] + [stripes(rng, side, canvas.device)]
    canvas = canvas.clone()
    for radius in radii:
        centre = rng.uniform(0, side, 2)
        left, top = (int(max(0, c - radius - 2)) for c in centre)
        right, bottom = (int(min(side, c + radius + 3)) for c in centre)
        if right - left < 2 or bottom - top < 2:
            continue
        x = torch.arange(left, right, device=canvas.device)[None, :] - float(centre[0])
        y = torch.arange(top, bottom, device=canvas.device)[:, None] - float(centre[1])
        distance = _leaf_distance(rng, x, y, float(radius))
        mask = (0.5 - distance).clamp(0, 1)
        patch = canvas[:, top:bottom, left:right]
        filling = _fill(mask, draw_color(rng))
        if rng.random() < 0.5:
            texture = textures[int(rng.integers(len(textures)))]
            filling = (filling + texture[:, top:bottom, left:right]) / 2
        canvas[:, top:bottom, left:right] = patch + mask * (filling - patch)
    return canvas


def _leaf_distance(rng: Random, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Signed distance to a disc or to a polygon of 3 to 6 sides."""
    if rng.random() < 0.5:
        return (x.square() + y.square()).sqrt() - radius
    n_sides, turn = int(rng.integers(3, 7)), rng.uniform(0, 2 * math.pi)
    distance = torch.full_like(x + y, -1e9)
    for i_side in range(n_sides):
        angle = turn + 2 * math.pi * i_side / n_sides
        distance = torch.maximum(distance, x * math.cos(angle) + y * math.sin(angle) - radius * 0.7)
    return distance


def text_mask(rng: Random, side: int) -> np.ndarray:
    """Lines of random words in random sizes: (side, side) in 0..1. Needs Pillow, which brings a font along."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise UsageError(
            "Procedural pictures need the pillow package, which is not installed.",
            "Install the extra: pip install 'flashvsr-cli[train]'.",
        ) from error

    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    letters = np.array(list(string.ascii_letters + string.digits + ".,:;-+?!"))
    for _ in range(int(rng.integers(8, 40))):
        font = ImageFont.load_default(float(np.exp(rng.uniform(math.log(10), math.log(side / 6)))))
        words = ("".join(rng.choice(letters, int(rng.integers(1, 9)))) for _ in range(int(rng.integers(1, 6))))
        draw.text(tuple(rng.uniform(0, side, 2)), " ".join(words), fill=255, font=font, anchor="mm")
    return np.asarray(image, dtype=np.float32) / 255


def draw_picture(rng: Random, side: int, device: torch.device) -> Tensor:
    """A picture (3, side, side) uint8."""
    kinds = (colored_noise, stripes, gradient)
    canvas = kinds[int(rng.integers(len(kinds)))](rng, side, device)
    if rng.random() < 0.8:
        canvas = dead_leaves(rng, canvas, int(np.exp(rng.uniform(math.log(30), math.log(500)))))
    if rng.random() < 0.35:
        mask = torch.from_numpy(text_mask(rng, side)).to(device)
        canvas = canvas + mask * (_fill(mask, draw_color(rng)) - canvas)
    if rng.random() < 0.3:
        radius = int(rng.integers(1, 3))
        canvas = F.avg_pool2d(F.pad(canvas[None], (radius,) * 4, mode="reflect"), 2 * radius + 1, stride=1)[0]
    return (canvas * 255).clamp(0, 255).round().to(torch.uint8)
