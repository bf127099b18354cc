"""What a training step gets."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips of one pack; of one frame each, both high_res and low_res, where single frames are asked for.

    Attributes:
        high_res: (B, 4F - 3, 3, H, W) float32 in [-1, 1], F even.
        low_res: (B, 4F + 1, 3, H, W) the low-resolution clips enlarged to the same size; the last four frames are
            looked at ahead of their time.
        indices: number of every clip within the step's batch.
        i_pack: number of the pack within the step.
        images: still pictures of the same pack, as clips of two latents; None if there are none.
    """

    high_res: Tensor
    low_res: Tensor
    indices: list[int]
    i_pack: int
    images: "Batch | None" = None
