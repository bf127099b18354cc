"""Clips with sound, the command as a process, and what to look at in the files."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

MINI = Path(__file__).resolve().parents[1] / "golden" / "mini"
TIME_BASE = Fraction(1, 30000)
TICKS = 1001


def draw(i_frame: int, size: tuple[int, int]) -> np.ndarray:
    """A smooth picture in slow motion with fixed texture, (H, W, 3) uint8."""
    y, x = np.indices(size)
    waves = np.sin(x[..., None] / 5 + y[..., None] / 9 + np.array([0, 2, 4]) + i_frame / 6)
    texture = np.random.default_rng(0).normal(0, 6, (*size, 1))
    return np.clip(128 + 80 * waves + texture, 0, 255).astype(np.uint8)


def write_clip(path: Path, n_frames: int, size: tuple[int, int] = (32, 32), *, is_vfr: bool = False) -> Path:
    """H.264 with B-frames and AAC; frame i is `draw(i)`; some frames of a VFR clip are three times as long."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "8"})
        video.height, video.width, video.pix_fmt = *size, "yuv444p"
        video.time_base = video.codec_context.time_base = TIME_BASE
        audio = container.add_stream("aac", rate=48000, layout="mono")
        tick = 0
        for i_frame in range(n_frames):
            frame = av.VideoFrame.from_ndarray(draw(i_frame, size), format="rgb24")
            frame.pts, frame.time_base = tick, TIME_BASE
            tick += TICKS * (3 if is_vfr and i_frame % 7 == 2 else 1)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        n_samples = int(tick * TIME_BASE * 48000)
        sound = (np.sin(np.arange(n_samples, dtype=np.float32) / 20)[None] / 4).astype(np.float32)
        block = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        block.sample_rate = 48000
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


@pytest.fixture
def paint() -> Callable[..., np.ndarray]:
    """`paint(i_frame, size)`: what `make_clip` films."""
    return draw


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """`make_clip("in.mp4", n_frames, size, is_vfr=)`."""
    return lambda name, *args, **options: write_clip(tmp_path / name, *args, **options)


@dataclass(frozen=True)
class Contents:
    """What a file holds: times are exact seconds."""

    times: list[Fraction]
    pictures: np.ndarray
    video: list[tuple[Fraction, Fraction | None, Fraction]]  # pts, dts, duration in decoding order
    audio: list[tuple[Fraction, bytes]]


def read_contents(path: Path) -> Contents:
    with av.open(str(path)) as container:
        frames = [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    video, audio = [], []
    with av.open(str(path)) as container:
        for packet in container.demux():
            if not packet.size:
                continue
            base = packet.time_base
            if packet.stream.type == "video":
                dts = None if packet.dts is None else packet.dts * base
                video.append((packet.pts * base, dts, packet.duration * base))
            else:
                audio.append((packet.pts * base, bytes(packet)))
    return Contents([t for t, _ in frames], np.stack([p for _, p in frames]), video, audio)


@pytest.fixture
def look() -> Callable[[Path], Contents]:
    """Everything in a file."""
    return read_contents


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """`start("upscale", ...)` begins the command in the test's folder with the small random checkpoint."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FLASHVSR_"))}
    environment = {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "FLASHVSR_CACHE_DIR": str(tmp_path / "cache"),
        "FLASHVSR_MODEL": str(MINI),
        "FLASHVSR_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }

    def begin(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "flashvsr_cli", *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **options)

    return begin


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., tuple[int, str]]:
    """`run("upscale", ...)` to its end: (exit code, stderr)."""

    def finish(*arguments: object, **options: Any) -> tuple[int, str]:
        with start(*arguments, **options) as process:
            _, stderr = process.communicate(timeout=200)
        return process.returncode, stderr.decode()

    return finish
