"""The command as a process of its own, clips to give it, and what to look at afterwards."""

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
COMMAND = (sys.executable, "-m", "flashvsr_cli")
TIMEOUT_S = 120
RATE = Fraction(30000, 1001)
SIZE = (24, 32)
SCALE = 4


@dataclass(frozen=True)
class Done:
    """What a process left behind."""

    code: int
    stdout: bytes
    stderr: str


@dataclass(frozen=True)
class Contents:
    """What PyAV finds in a file; times are exact seconds."""

    n_frames: int
    size: tuple[int, int]
    rate: Fraction
    times: list[Fraction]
    audio: list[tuple[Fraction, bytes]]


@pytest.fixture(scope="session")
def mini_folder() -> Path:
    return MINI


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of the user's caches or settings is used; the small random checkpoint is the model."""
    caches = tmp_path_factory.mktemp("caches")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FLASHVSR_")) and k != "COLUMNS"}
    return {
        **kept,
        "HF_HOME": str(caches / "hub"),
        "HF_HUB_OFFLINE": "1",
        "FLASHVSR_CACHE_DIR": str(caches / "own"),
        "FLASHVSR_MODEL": str(MINI),
        "FLASHVSR_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """`start("upscale", ...)` begins a process in the test's folder; pipes are as for `Popen`."""

    def begin(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=tmp_path, env=environment, **options)

    return begin


@pytest.fixture
def flashvsr(start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., Done]:
    """`flashvsr("upscale", ..., stdin=b"...")` runs the command to its end."""

    def run(*arguments: object, stdin: bytes | None = None, timeout_s: float = TIMEOUT_S, **options: Any) -> Done:
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        with start(*arguments, **options) as process:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        return Done(process.returncode, stdout or b"", stderr.decode())

    return run


def noise(n_frames: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(n_frames, height, width, 3) uint8, every frame different."""
    return np.random.default_rng(n_frames).integers(0, 256, (n_frames, *size, 3), dtype=np.uint8)


def write_clip(
    path: Path,
    n_frames: int = 9,
    size: tuple[int, int] = SIZE,
    *,
    has_audio: bool = False,
    steps: tuple[int, ...] = (1,),
    codec: str = "libx264",
) -> Path:
    """A clip of noise; `steps` are the frames' durations in frame periods, repeated (more than one makes it VFR)."""
    with av.open(path, "w") as container:
        options = {"preset": "ultrafast"} if codec == "libx264" else {"g": "1"}
        video = container.add_stream(codec, rate=RATE, options=options)
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono") if has_audio else None
        tick = 0
        for i_frame, picture in enumerate(noise(n_frames, size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, 1 / RATE
            tick += steps[i_frame % len(steps)]
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            n_samples = int(tick / RATE * 48000)
            sound = np.sin(np.arange(n_samples, dtype=np.float32) / 20)[None] / 4
            block = av.AudioFrame.from_ndarray(sound.astype(np.float32), format="fltp", layout="mono")
            block.sample_rate = 48000
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """`make_clip("name.mp4", n_frames, size, has_audio=, steps=, codec=)`."""
    return lambda name, *args, **options: write_clip(tmp_path / name, *args, **options)


@pytest.fixture
def make_y4m() -> Callable[..., bytes]:
    """`make_y4m(n_frames, size)`: a Y4M stream of random 4:2:0 frames."""

    def make(n_frames: int, size: tuple[int, int] = SIZE) -> bytes:
        height, width = size
        n_bytes = height * width + 2 * -(-height // 2) * -(-width // 2)
        header = f"YUV4MPEG2 W{width} H{height} F30000:1001 Ip A1:1 C420jpeg\n".encode()
        frames = np.random.default_rng(0).integers(0, 256, (n_frames, n_bytes), dtype=np.uint8)
        return header + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)

    return make


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[..., Path]:
    """`make_pictures("folder", n)` fills a folder with shot_001.png, shot_002.png, ..."""
    from PIL import Image

    def make(name: str, n_frames: int, size: tuple[int, int] = SIZE) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, picture in enumerate(noise(n_frames, size), 1):
            Image.fromarray(picture).save(folder / f"shot_{number:03d}.png")
        return folder

    return make


@pytest.fixture
def look() -> Callable[[Path], Contents]:
    """Read a file back."""

    def read(path: Path) -> Contents:
        with av.open(path) as container:
            video = container.streams.video[0]
            frames = [frame.pts * frame.time_base for frame in container.decode(video)]
            size, rate = (video.height, video.width), Fraction(video.average_rate)
        audio = []
        with av.open(path) as container:
            for packet in container.demux(container.streams.audio) if container.streams.audio else ():
                if packet.size:
                    audio.append((packet.pts * packet.time_base, bytes(packet)))
        return Contents(len(frames), size, rate, frames, audio)

    return read


@pytest.fixture
def files_in(tmp_path: Path) -> Callable[[], set[str]]:
    """Every file and folder below the test's folder, hidden ones too."""
    return lambda: {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
