"""A clip, and the command with something happening at one of its stages."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
MINI = HERE.parent / "golden" / "mini"
N_FRAMES = 45
SIZE = (32, 32)
# Nobody reads the pipe: it has to hold the whole output.
PIPE_BYTES = 2**20


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it left."""

    code: int
    stdout: bytes
    stderr: str
    files: set[str]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """45 frames with sound."""
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        for i_frame in range(N_FRAMES):
            picture = np.full((*SIZE, 3), 40 + 3 * i_frame, np.uint8)
            picture[:, : i_frame % 32] //= 2
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    return path


@pytest.fixture
def broken(clip: Path, tmp_path: Path) -> Callable[..., Ended]:
    """`broken(stage, event, n, *arguments)`: `upscale in.mp4` with the arguments, as `broken_run.py` describes."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FLASHVSR_"))}
    environment = {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "FLASHVSR_CACHE_DIR": str(tmp_path.parent / f"{tmp_path.name}-cache"),
        "FLASHVSR_MODEL": str(MINI),
        "FLASHVSR_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }

    def run(stage: str, event: str, n_calls: int, *arguments: str) -> Ended:
        own = [sys.executable, str(HERE / "broken_run.py"), stage, event, str(n_calls)]
        command = [*own, "upscale", clip.name, *arguments]
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # Only the process itself holds the pipe's read end if it is to close it.
        is_pipe = event == "pipe"
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment, "READ_END": str(read_end)},
            stdin=subprocess.DEVNULL,
            stdout=write_end if is_pipe else subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(read_end,) if is_pipe else (),
        ) as process:
            os.close(read_end)
            os.close(write_end)
            stdout, stderr = process.communicate(timeout=40)
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        return Ended(process.returncode, stdout or b"", stderr.decode(), files)

    return run
