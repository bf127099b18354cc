"""Comparing two clips, with or without the true one: figures, a video, a strip.

Frames are read one by one from all inputs at once, so memory does not grow with their length.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from flashvsr_cli.compare.metrics import Flicker, psnr, ssim, to_luma
from flashvsr_cli.compare.pictures import Picture, arrange, encode_png, to_bytes
from flashvsr_cli.errors import InputError, OutputError, UsageError
from flashvsr_cli.geometry import Size
from flashvsr_cli.options import InputOptions
from flashvsr_cli.preflight import check_targets
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.frame import Frame, Image
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.source import Source
from flashvsr_cli.video.targets import PartFile, prepare_target
from flashvsr_cli.video.writer import open_sink

VideoLayout = Literal["side", "wipe"]
STRIP_COLUMNS, STRIP_SUFFIX = 4, ".png"
LINE_WIDTH = 2
WIPE_FRAMES = 120
"""Frames in which the border of a wipe goes across and back."""


@dataclass(frozen=True)
class ClipFigures:
    """Means over a clip.

    Attributes:
        psnr_y, ssim_y: of luma against the reference; None without one.
        warped_difference: change beyond motion, in levels of luma.
        flicker: the same over that of the reference (or of the other clip's motion guide); None without one.
        mean_color: mean red, green and blue in levels of 255.
    """

    psnr_y: float | None
    ssim_y: float | None
    warped_difference: float | None
    flicker: float | None
    mean_color: tuple[float, float, float]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        n_frames: frames compared.
        size: (height, width) they were compared at.
        resized: names that were enlarged to that size for comparing.
        clips: figures by name ("a", "b").
    """

    n_frames: int
    size: Size
    resized: tuple[str, ...]
    clips: dict[str, ClipFigures]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; what is no number there, the PSNR of equal clips for instance, is null."""
        clips = {
            name: {key: _finite(value) for key, value in asdict(figures).items()}
            for name, figures in self.clips.items()
        }
        return {**asdict(self), "clips": clips}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Running:
    """Sums over the frames of one clip."""

    def __init__(self) -> None:
        self.quality: list[tuple[float, float]] = []
        self.color = np.zeros(3)


def compare_clips(
    a: str,
    b: str,
    *,
    reference: str | None = None,
    video: str | None = None,
    layout: VideoLayout = "side",
    strip: Path | None = None,
    n_frames: int | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Compare clip `b` with clip `a`.

    Args:
        a: where the first clip lies; anything that `flashvsr upscale` reads.
        b: the same for the second.
        reference: the true clip, if there is one.
        video: a video to write, with the clips next to each other or a border wiping between them.
        layout: which.
        strip: a PNG to write, one row per clip, a few frames' centres.
        n_frames: how many frames of the beginning to compare; None takes all.
        overwrite: whether `video` and `strip` may replace what is there.

    Raises:
        InputError: an input cannot be read, or the clips have different numbers of frames.
        OutputError: the video or the strip cannot be written, is an input, or exists and `overwrite` is off.
        UsageError: no two inputs are of one shape, or video and strip are one file.
    """
    names = {"a": a, "b": b} | ({"reference": reference} if reference is not None else {})
    if strip is not None and strip.suffix.lower() != STRIP_SUFFIX:
        raise OutputError(f"The strip is a PNG picture; {strip} is no name for one.", "Use a name that ends in .png.")
    targets = [target for target in (video, None if strip is None else str(strip)) if target is not None]
    check_targets(names.values(), targets, overwrite=overwrite)
    with ExitStack() as stack:
        strip_file = None if strip is None else _open_strip(strip, stack, overwrite=overwrite)
        part = InputOptions(max_frames=n_frames)
        sources = {name: stack.enter_context(open_source(location, part)) for name, location in names.items()}
        sizes = {name: source.info.size for name, source in sources.items()}
        size = sizes.get("reference") or max(sizes.values())
        _check_shapes(sizes, size)
        canvas = (size[0], 2 * size[1]) if layout == "side" else size
        sink = open_sink(video, sources["b"], canvas, overwrite=overwrite) if video is not None else None
        finished = False
        try:
            running, flicker, tiles, n_compared = {"a": _Running(), "b": _Running()}, Flicker(), _Tiles(), 0
            for frames in _together(sources):
                images = {name: _fit(frame.image, size) for name, frame in frames.items()}
                _add(images, running, flicker)
                tiles.add(n_compared, images)
                if sink is not None:
                    sink.write(Frame(_compose(images, layout, n_compared), frames["b"].pts, frames["b"].duration))
                n_compared += 1
            if sink is not None:
                sink.commit()
            finished = True
        finally:
            if sink is not None and not finished:
                sink.abort()
        if strip_file is not None:
            with output_faults(str(strip)):
                strip_file.write(encode_png(tiles.sheet()))
                strip_file.commit()
    resized = tuple(name for name in names if sizes[name] != size)
    return Comparison(n_compared, size, resized, _figures(running, flicker.result(), n_compared))


def _open_strip(strip: Path, stack: ExitStack, *, overwrite: bool) -> PartFile:
    """The file of the strip; what is not committed when the stack is left is removed."""
    target = prepare_target(str(strip))
    with output_faults(str(strip)):
        file = PartFile(target, overwrite=overwrite)
    stack.callback(file.abort)
    return file


def _check_shapes(sizes: dict[str, Size], size: Size) -> None:
    for name, (height, width) in sizes.items():
        if abs(height * size[1] - width * size[0]) > 0.02 * size[0] * size[1]:
            raise UsageError(
                f"clip {name} ({width}x{height}) has another shape than {size[1]}x{size[0]}.",
                "Compare clips of one picture shape.",
            )


def _together(sources: dict[str, Source]) -> Iterator[dict[str, Frame]]:
    """Frames of the same number from all sources."""
    iterators = {name: iter(source) for name, source in sources.items()}
    n_frames = 0
    while True:
        frames = {name: next(iterator, None) for name, iterator in iterators.items()}
        ended = [name for name, frame in frames.items() if frame is None]
        if len(ended) == len(frames):
            return
        if ended:
            raise InputError(
                f"clip {ended[0]} ends after {n_frames} frames, the others go on.",
                "Compare clips of one length, or their beginnings with --frames.",
            )
        yield {name: frame for name, frame in frames.items() if frame is not None}
        n_frames += 1


def _fit(image: Image, size: Size) -> Picture:
    """The picture in 8 bits, enlarged (bicubic) if it is smaller than what it is compared with."""
    picture = to_bytes(image)
    if picture.shape[:2] == size:
        return picture
    x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 255).round()
    return x[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()


def _add(images: dict[str, Picture], running: dict[str, _Running], flicker: Flicker) -> None:
    lumas = {name: to_luma(image) for name, image in images.items()}
    for name, sums in running.items():
        sums.color += images[name].mean(axis=(0, 1))
        if "reference" in lumas:
            similarity = ssim(lumas[name], lumas["reference"]) if min(images[name].shape[:2]) >= 11 else float("nan")
            sums.quality.append((psnr(lumas[name], lumas["reference"]), similarity))
    flicker.add(lumas, "reference" if "reference" in lumas else "a")


def _figures(running: dict[str, _Running], changes: dict[str, float], n_frames: int) -> dict[str, ClipFigures]:
    figures = {}
    true_change = changes.get("reference")
    for name, sums in running.items():
        quality = np.mean(sums.quality, axis=0) if sums.quality else (None, None)
        red, green, blue = sums.color / max(1, n_frames)
        change = changes.get(name)
        figures[name] = ClipFigures(
            None if quality[0] is None else float(quality[0]),
            None if quality[1] is None else float(quality[1]),
            change,
            change / true_change if change is not None and true_change else None,
            (float(red), float(green), float(blue)),
        )
    return figures


def _compose(images: dict[str, Picture], layout: VideoLayout, i_frame: int) -> Picture:
    """One frame of the video."""
    a, b = images["a"], images["b"]
    if layout == "side":
        return np.concatenate((a, b), axis=1)
    width = a.shape[1]
    phase = i_frame % WIPE_FRAMES / WIPE_FRAMES
    border = round((1 - abs(2 * phase - 1)) * width)
    out = np.concatenate((a[:, :border], b[:, border:]), axis=1)
    out[:, max(0, border - LINE_WIDTH) : border] = 255
    return out


class _Tiles:
    """A few frames spread over a clip of unknown length: every 2^n-th, thinned out as it grows."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: list[tuple[int, dict[str, Picture]]] = []

    def add(self, i_frame: int, images: dict[str, Picture]) -> None:
        if i_frame % self._every:
            return
        self._kept.append((i_frame, {name: _centre(image) for name, image in images.items()}))
        if len(self._kept) > 2 * STRIP_COLUMNS:
            self._every *= 2
            self._kept = [item for item in self._kept if item[0] % self._every == 0]

    def sheet(self) -> Picture:
        chosen = self._kept[:: max(1, -(-len(self._kept) // STRIP_COLUMNS))]
        return arrange([[images[name] for _, images in chosen] for name in chosen[0][1]])


def _centre(image: Picture) -> Picture:
    """A square from the middle, at most 320 pixels wide."""
    side = min(320, *image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])
