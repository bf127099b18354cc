"""What makes a file worth training on: named steps, each with its measure and limit.

Source: how VSR-120K was filtered (FlashVSR, supplement): length, resolution, picture quality, motion. The aesthetic
and quality networks used there need weights; sharpness and exposure stand in for them here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_cli.compare.flow import estimate_flow

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
MEASURED_FRAMES = 6
"""Frames looked at per file, spread over its length."""
GUESSED_FRAMES, GUESSED_RATE = 72, 25
MOTION_SIDE = 256
STEPS = ("readable", "length", "resolution", "sharpness", "exposure", "motion")


@dataclass(frozen=True)
class FilterConfig:
    """Limits of the steps.

    Attributes:
        min_frames: of a video.
        min_side: shorter side in pixels.
        min_sharpness: median over frames of the standard deviation of the Laplacian of luma, in levels.
        exposure: allowed range of mean luma.
        motion: allowed range of mean optical flow between neighbouring frames, in percent of the longer side; static
            clips teach nothing about time, and too fast ones nothing about detail.
    """

    min_frames: int = 33
    min_side: int = 512
    min_sharpness: float = 4.0
    exposure: tuple[float, float] = (16.0, 240.0)
    motion: tuple[float, float] = (0.02, 5.0)


@dataclass(frozen=True)
class Measures:
    """What was measured on a file; a photo has one frame and no motion."""

    kind: str
    n_frames: int
    height: int
    width: int
    sharpness: float
    exposure: float
    motion: float


def measure_file(path: Path, kind: str) -> tuple[Measures, np.ndarray] | None:
    """Measure a video or photo; None if it cannot be read.

    Returns:
        The measures, and a frame from its middle (H, W, 3) uint8.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return None
            return _measure(container, kind)
    except (av.FFmpegError, OSError, ValueError):
        return None


def _measure(container: Any, kind: str) -> tuple[Measures, np.ndarray] | None:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    every = max(2, _expected_frames(container, stream) // MEASURED_FRAMES)
    sharpness: list[float] = []
    exposure: list[float] = []
    motion: list[float] = []
    before: Tensor | None = None
    n_frames, picture = 0, None
    for frame in container.decode(stream):
        if n_frames % every == 0 and len(sharpness) < 4 * MEASURED_FRAMES:
            luma = _luma(frame)
            sharpness.append(laplacian_deviation(luma))
            exposure.append(float(luma.mean()))
            before = luma
            if picture is None or len(sharpness) == MEASURED_FRAMES // 2:
                picture = frame.to_ndarray(format="rgb24")
        elif before is not None:
            motion.append(mean_motion(before, _luma(frame)))
            before = None
        n_frames += 1
    if picture is None:
        return None
    height, width = picture.shape[:2]
    measures = Measures(
        kind,
        n_frames,
        height,
        width,
        float(np.median(sharpness)),
        float(np.mean(exposure)),
        float(np.mean(motion)) if motion else 0.0,
    )
    return measures, picture


def _expected_frames(container: Any, stream: Any) -> int:
    """How many frames a file states, directly or by its duration; a guess where it states neither."""
    if stream.frames:
        return int(stream.frames)
    if stream.duration is not None:
        duration_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration_s = container.duration / av.time_base
    else:
        return GUESSED_FRAMES
    return round(duration_s * float(stream.average_rate or stream.guessed_rate or GUESSED_RATE))


def _luma(frame: Any) -> Tensor:
    """(1, 1, H, W) float, levels."""
    return torch.from_numpy(frame.to_ndarray(format="gray")).float()[None, None]


def laplacian_deviation(luma: Tensor) -> float:
    """How much fine detail a picture has: standard deviation of its Laplacian, in levels."""
    kernel = luma.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(F.conv2d(luma, kernel).std())


def mean_motion(first: Tensor, second: Tensor) -> float:
    """Mean optical flow between two frames, in percent of the longer side."""
    scale = MOTION_SIDE / max(first.shape[-2:])
    size = [max(16, round(side * scale)) for side in first.shape[-2:]]
    small = [F.interpolate(x, size, mode="bilinear", antialias=True) for x in (first, second)]
    flow = estimate_flow(*small)
    return float(flow.square().sum(dim=1).sqrt().mean()) / MOTION_SIDE * 100


def failed_step(measures: Measures, config: FilterConfig) -> str | None:
    """The first step that a file does not pass; None if it passes all."""
    is_video = measures.kind == "video"
    passes = {
        "length": not is_video or measures.n_frames >= config.min_frames,
        "resolution": min(measures.height, measures.width) >= config.min_side,
        "sharpness": measures.sharpness >= config.min_sharpness,
        "exposure": config.exposure[0] <= measures.exposure <= config.exposure[1],
        "motion": not is_video or config.motion[0] <= measures.motion <= config.motion[1],
    }
    return next((step for step, passed in passes.items() if not passed), None)
