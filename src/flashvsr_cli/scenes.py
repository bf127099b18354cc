"""Hard cuts: where a clip's next frame belongs to another shot. Streaming, with three frames of lookahead.

A cut is a place where each of the frames just before differs from each of the frames just after, by far more than
frames on either side differ from their own neighbours. So a flash of up to three frames is no cut (the picture comes
back), a fade or a fast pan is none (its neighbours differ as much), nor is animation in which drawings stand still for
two or three frames. Nor is a jerk of the camera or a gap in a recording, where the picture's parts are found again
nearby. What cannot be told from a cut by its pictures, such as a light that goes on for good, counts as
one; the cost is a fresh start of the model there.

Own code in place of PySceneDetect, which reads files itself and brings OpenCV along. Pinned by tests/scenes.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice, pairwise, product
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from flashvsr_cli.video.frame import Image

WINDOW = 4
LOOKAHEAD = WINDOW - 1
GRID = 32
SAMPLES_PER_CELL = 4
# Thresholds in levels of 255: darker pictures differ by less. Chosen on the clips of tests/scenes.
BASE_DIFFERENCE = 4.0
DIFFERENCE_PER_LEVEL = 0.06
CUT_RATIO = 3.0
MOVED_RATIO = 1.4
PART_SIDE = 8
SEARCH_RADIUS = 5

Thumbnail = npt.NDArray[np.float32]


def split_shots(frames: Iterable[Image]) -> Iterator[Iterator[Image]]:
    """Divide a clip at its hard cuts, lazily; every frame comes once, in order.

    Args:
        frames: (H, W, 3) uint8 or uint16 arrays of one size.

    Yields:
        The frames of each shot, at least one. A shot must be used up before the next is asked for; what is left of it
        is passed over. Reads three frames ahead.
    """
    for _, shot in groupby(_number_shots(frames), key=itemgetter(0)):
        yield (image for _, image in shot)


def _number_shots(frames: Iterable[Image]) -> Iterator[tuple[int, Image]]:
    source = iter(frames)
    before: deque[Thumbnail] = deque(maxlen=WINDOW)
    after = deque((image, make_thumbnail(image)) for image in islice(source, WINDOW))
    i_shot = 0
    while after:
        i_shot += is_cut(before, [thumbnail for _, thumbnail in after])
        image, thumbnail = after.popleft()
        before.append(thumbnail)
        yield i_shot, image
        del image
        after.extend((image, make_thumbnail(image)) for image in islice(source, 1))


def make_thumbnail(image: Image) -> Thumbnail:
    """At most 32 x 32 means over samples of (H, W, 3) uint8 or uint16, as (h, w, 3) float32 in 0 to 255."""
    index = []
    for side in image.shape[:2]:
        n_cells = min(side, GRID)
        n_samples = n_cells * min(SAMPLES_PER_CELL, side // n_cells)
        index.append(((np.arange(n_samples) + 0.5) * side / n_samples).astype(np.intp))
    samples = image[np.ix_(*index)].astype(np.float32)
    if image.dtype == np.uint16:
        samples /= 257
    height, width = (min(side, GRID) for side in image.shape[:2])
    cells = samples.reshape(height, len(index[0]) // height, width, len(index[1]) // width, 3)
    return cells.mean(axis=(1, 3))


def is_cut(before: Iterable[Thumbnail], after: Iterable[Thumbnail]) -> bool:
    """Whether a new shot begins between the last few frames and the next few.

    Args:
        before: up to four thumbnails in order; none before the first frame.
        after: up to four thumbnails in order, the first that of the frame in question.
    """
    before, after = list(before), list(after)
    if not before:
        return False
    # First what most often decides: the two frames themselves.
    adjacent = _difference(before[-1], after[0])
    threshold = BASE_DIFFERENCE + DIFFERENCE_PER_LEVEL * float(before[-1].mean() + after[0].mean()) / 2
    if adjacent < threshold:
        return False
    across = min(_difference(a, b) for a, b in product(before, after))
    within = [_difference(a, b) for side in (before, after) for a, b in pairwise(side)]
    # The second largest: one jump nearby may be another cut, but two are motion, flicker or held drawings.
    usual = sorted(within)[-2] if len(within) > 1 else 0.0
    if across < threshold or across < CUT_RATIO * usual:
        return False
    pairs = chain(product(before, after), product(after, before))
    return all(_moved_difference(a, b) >= MOVED_RATIO * threshold for a, b in pairs)


def _difference(a: Thumbnail, b: Thumbnail) -> float:
    return float(np.abs(a - b).mean())


def _moved_difference(a: Thumbnail, b: Thumbnail) -> float:
    """The difference that is left when every part of `a` is compared with the likest place nearby in `b`."""
    height, width = a.shape[:2]
    side = min(PART_SIDE, height, width)
    padded = np.pad(b, ((SEARCH_RADIUS, SEARCH_RADIUS), (SEARCH_RADIUS, SEARCH_RADIUS), (0, 0)), mode="edge")
    reach = side + 2 * SEARCH_RADIUS
    best = []
    for top, left in product(range(0, height - side + 1, side), range(0, width - side + 1, side)):
        places = sliding_window_view(padded[top : top + reach, left : left + reach], (side, side), axis=(0, 1))
        part = a[top : top + side, left : left + side].transpose(2, 0, 1)
        best.append(np.abs(places - part).mean(axis=(2, 3, 4)).min())
    return float(np.mean(best))
