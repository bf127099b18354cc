"""From the decoder's frames to the bytes that are wanted: colour fix, blend with the enlargement, grain, rounding."""

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.blend import Grain, blend
from flashvsr_cli.color import ADAIN_EPS, fix_color
from flashvsr_cli.enlarge import to_integers, to_signed
from flashvsr_cli.options import Settings


def finish_frames(
    high_res: Tensor,
    reference: Tensor,
    settings: Settings,
    grain: Grain,
    dtype: np.dtype,
    *,
    has_kernels: bool = False,
) -> Tensor:
    """Finish frames without padding.

    Args:
        high_res: (T, 3, H, W) float, nominally in [-1, 1].
        reference: (T, 3, H, W), their levels before the model.
        settings: colour fix, strength and grain.
        grain: of the shot; has read the frames' sources.
        dtype: uint8 or uint16.
        has_kernels: whether the GPU kernels may be used where they do all that is wanted: adain or no colour fix, on
            8 bits. They round once instead of several times, so that a level here and there differs by one.

    Returns:
        (T, H, W, 3) uint8, or int32 for uint16.
    """
    is_plain = settings.color_fix != "wavelet" and settings.strength == 1 and not settings.grain
    if has_kernels and is_plain and dtype == np.uint8:
        from flashvsr_kernels.color_match import match_levels, round_levels  # needs triton

        with torch.cuda.device_of(high_res):  # Triton launches on the current device.
            if settings.color_fix == "none":
                return round_levels(high_res)
            return match_levels(high_res, reference, ADAIN_EPS)
    finished = []
    # Every frame by itself is the same; on a GPU all at once is faster, on a CPU it would only be memory.
    n_together = len(high_res) if high_res.is_cuda else 1
    for x, levels in zip(high_res.split(n_together), reference.split(n_together), strict=True):
        plain = to_signed(levels)
        fixed = blend(fix_color(settings.color_fix, x.float(), plain), plain, settings.strength)
        finished.append(to_integers(grain.add(fixed), dtype))
    return torch.cat(finished)
