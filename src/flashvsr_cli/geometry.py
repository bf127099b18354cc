"""Sizes as integers: scaling, padding to what the model accepts, cropping back.

Sizes are always `(height, width)` in pixels.
"""

from dataclasses import dataclass

MODEL_MULTIPLE = 128
PIXELS_PER_TOKEN = 16
TOKENS_PER_WINDOW_SIDE = 8

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How one input size travels through the model.

    Attributes:
        source: size of the input frames.
        target: size of the output frames, `round(side * scale)` per side.
        padded: size the model computes on, `target` rounded up to multiples of 128.
    """

    source: Size
    target: Size
    padded: Size

    @property
    def padding(self) -> tuple[int, int]:
        """Rows added below and columns added at the right."""
        return self.padded[0] - self.target[0], self.padded[1] - self.target[1]

    @property
    def token_grid(self) -> Size:
        """Rows and columns of tokens in one latent frame."""
        return self.padded[0] // PIXELS_PER_TOKEN, self.padded[1] // PIXELS_PER_TOKEN

    @property
    def window_grid(self) -> Size:
        """Rows and columns of attention windows in one pair of latent frames."""
        rows, columns = self.token_grid
        return rows // TOKENS_PER_WINDOW_SIDE, columns // TOKENS_PER_WINDOW_SIDE


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def plan_geometry(source: Size, scale: float) -> Geometry:
    """Target and padded size of frames of size `source` enlarged by `scale`.

    Raises:
        ValueError: if a side is below 1 or the target has a side of 0.
    """
    if min(source) < 1:
        raise ValueError(f"a frame needs at least one pixel per side, not {source}")
    target = (round(source[0] * scale), round(source[1] * scale))
    if min(target) < 1:
        raise ValueError(f"scale {scale} makes {source} vanish")
    padded = (round_up(target[0], MODEL_MULTIPLE), round_up(target[1], MODEL_MULTIPLE))
    return Geometry(source, target, padded)
