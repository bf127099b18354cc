"""Dense optical flow without weights: Lucas-Kanade with warping, from coarse to fine.

Good for what it is used for here, judging motion and flicker of ordinary clips; no match for learned flow.

Source: Lucas and Kanade 1981; pyramidal form after Bouguet 2000.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SIDE = 24
LARGE_SIDE = 720
WARPS_PER_LEVEL = 3
WINDOW_RADIUS = 4
REGULARISATION = 4.0
"""Added to the structure tensor, in squared levels: flat places keep the flow of the coarser level."""
MAX_UPDATE = 2.0


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Fetch (N, C, H, W) from where the flow (N, 2, H, W), (x, y) in pixels, points to; borders are repeated."""
    _, _, height, width = x.shape
    row = torch.arange(height, device=x.device, dtype=x.dtype)[None, :, None]
    column = torch.arange(width, device=x.device, dtype=x.dtype)[None, None, :]
    place_x = (column + flow[:, 0] + 0.5) * (2 / width) - 1
    place_y = (row + flow[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack((place_x, place_y), dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def estimate_flow(first: Tensor, second: Tensor) -> Tensor:
    """Where every pixel of the first picture is in the second.

    Args:
        first: (N, 1, H, W) float, levels 0..255.
        second: the same shape.

    Returns:
        (N, 2, H, W): x and y in pixels, so that `warp(second, flow)` looks like `first`.
    """
    pyramid = [(first, second)]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * SMALLEST_SIDE:
        pyramid.append(tuple(_halve(x) for x in pyramid[-1]))  # type: ignore[arg-type]
    coarsest = pyramid[-1][0]
    flow = coarsest.new_zeros(coarsest.shape[0], 2, *coarsest.shape[-2:])
    for near, far in reversed(pyramid):
        if flow.shape[-2:] != near.shape[-2:]:
            flow = _enlarge_flow(flow, near)
        for _ in range(WARPS_PER_LEVEL):
            flow = flow + _update(near, warp(far, flow))
    return flow


def estimate_large_flow(first: Tensor, second: Tensor) -> Tensor:
    """As `estimate_flow`; with a side above LARGE_SIDE from pictures of half the size, a quarter of the work."""
    if max(first.shape[-2:]) <= LARGE_SIDE:
        return estimate_flow(first, second)
    return _enlarge_flow(estimate_large_flow(_halve(first), _halve(second)), first)


def estimate_coarse_flow(first: Tensor, second: Tensor) -> Tensor:
    """As `estimate_flow`, from pictures of half the size: a quarter of the work, for training."""
    return _enlarge_flow(estimate_flow(_halve(first), _halve(second)), first)


def _enlarge_flow(flow: Tensor, like: Tensor) -> Tensor:
    """The flow of a smaller picture as that of one of the size of `like`."""
    ratios = like.shape[-1] / flow.shape[-1], like.shape[-2] / flow.shape[-2]
    parts = F.interpolate(flow, like.shape[-2:], mode="bilinear", align_corners=False).split(1, dim=1)
    return torch.cat([part * ratio for part, ratio in zip(parts, ratios, strict=True)], dim=1)


def _halve(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return F.interpolate(x, (max(1, height // 2), max(1, width // 2)), mode="bilinear", antialias=True)


def _update(near: Tensor, moved: Tensor) -> Tensor:
    """The flow that is still missing, from gradients averaged over a window."""
    padded = F.pad((near + moved) / 2, (1, 1, 1, 1), mode="replicate")
    slope_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    slope_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    step = near - moved
    products = torch.cat((slope_x**2, slope_x * slope_y, slope_y**2, slope_x * step, slope_y * step), dim=1)
    for _ in range(2):
        products = F.avg_pool2d(
            F.pad(products, (WINDOW_RADIUS // 2,) * 4, mode="replicate"), WINDOW_RADIUS + 1, stride=1
        )
    xx, xy, yy, xt, yt = products.split(1, dim=1)
    xx, yy = xx + REGULARISATION, yy + REGULARISATION
    determinant = xx * yy - xy**2
    update = torch.cat((yy * xt - xy * yt, xx * yt - xy * xt), dim=1) / determinant
    return update.clamp(-MAX_UPDATE, MAX_UPDATE)
