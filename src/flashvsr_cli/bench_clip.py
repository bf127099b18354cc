"""Whole clips for `bench_model`: from frames in memory to frames in memory, and from an H.264 file to an H.264 file."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path

import av
import numpy as np
import torch

from flashvsr_cli.console import QuietReporter
from flashvsr_cli.dataset.motion import Picture, render_clip
from flashvsr_cli.dataset.procedural import colored_noise, dead_leaves
from flashvsr_cli.geometry import Size
from flashvsr_cli.jobs import Job, OpenJob
from flashvsr_cli.options import Settings
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.video.frame import Image

N_DISTINCT, N_LEAVES, SEED = 48, 400, 6


def draw_clip(size: Size, n_frames: int) -> Iterator[Image]:
    """A camera that moves over a textured picture, there and back: (height, width, 3) uint8, the same in every run.

    What an encoder has to do with it is near what it has to do with filmed pictures: there are edges and textures, and
    they move.

    Args:
        size: (height, width).
        n_frames: frames.
    """
    rng = np.random.default_rng(SEED)
    canvas = dead_leaves(rng, colored_noise(rng, 2 * max(size), torch.device("cpu")), N_LEAVES)
    clip = render_clip(Picture.of((canvas * 255).round().to(torch.uint8)), rng, N_DISTINCT, size)
    images = clip.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    there_and_back = chain(images, images[-2:0:-1])
    yield from islice(cycle(there_and_back), n_frames)


def measure_in_memory(upscaler: Upscaler, size: Size, settings: Settings, n_frames: int) -> float:
    """Frames per second from frames on the host to frames on the host at 4x, the first chunk included.

    Args:
        upscaler: the model.
        size: (height, width) of the input.
        settings: how it computes.
        n_frames: length of the clip.
    """
    frames = list(draw_clip(size, min(n_frames, 2 * N_DISTINCT - 2)))
    started = time.perf_counter()
    n_out = sum(1 for _ in upscaler.upscale(islice(cycle(frames), n_frames), 4, settings))
    return n_out / (time.perf_counter() - started)


def measure_files(
    upscaler: Upscaler, size: Size, settings: Settings, n_frames: int, *, shows_model: bool
) -> tuple[int, float]:
    """From an H.264 file to an H.264 file at 4x, opening and closing included.

    Args:
        upscaler: the model.
        size: (height, width) of the input.
        settings: how it computes.
        n_frames: length of the clip.
        shows_model: whether the model's pictures are encoded. Random weights make every frame independent noise, which
            is an encoder's worst case and no model's picture; without this the plain enlargement is written (strength
            0), while the model computes all the same.

    Returns:
        Frames written, and frames per second.
    """
    settings = settings if shows_model else replace(settings, strength=0.0)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write_clip(source, size, n_frames)
        with OpenJob(Job(str(source), str(target))) as job:
            report = job.run(upscaler, settings, QuietReporter())
    return report.frames_out, report.fps


def write_clip(path: Path, size: Size, n_frames: int) -> None:
    """`draw_clip` as H.264 at 30 frames per second; 4:2:0, or 4:4:4 where a side is odd."""
    pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        for frame in draw_clip(size, n_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
