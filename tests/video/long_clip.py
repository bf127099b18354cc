"""Hours of a clip of variable rate through the real job, with the model's place taken by frames passed on unchanged.

    python tests/video/long_clip.py --minutes 120 --container mp4

Writes the clip, runs the job in this process, reads every packet back, and reports as JSON: resident memory early, in
the middle and at the end, how many pictures have another time than in the source, and where sound and pictures end.
pytest runs it from test_long_clip.py with fewer minutes.
"""

import argparse
import itertools
import json
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch

from flashvsr_cli import Upscaler
from flashvsr_cli.jobs import Job, OpenJob
from flashvsr_cli.options import EncodeOptions, Settings
from flashvsr_cli.video.frame import Image

HEIGHT, WIDTH = 48, 64
BLOCK = 8
N_BLOCKS = (HEIGHT // BLOCK) * (WIDTH // BLOCK)
FRAMES_HELD_BACK = 25
"""What the model has read when its first frame comes out."""
DURATIONS_MS = (33, 67, 67, 100, 50, 83, 17, 117, 66, 67)
"""Between pictures; 15 a second on average."""
GAP_EVERY, GAP_MS = 997, 1500
SOUND_RATE, SOUND_FRAME = 48_000, 1024
N_DIFFERENT_SOUNDS = 40
ENCODER = {"preset": "ultrafast", "tune": "fastdecode", "g": "250"}
SAMPLE_EVERY = 500


def plan_times(seconds: int) -> list[int]:
    """The pictures' times in milliseconds, up to so many seconds."""
    times, now = [], 0
    for i_frame, duration in enumerate(itertools.cycle(DURATIONS_MS)):
        if now >= 1000 * seconds:
            return times
        times.append(now)
        now += GAP_MS if i_frame % GAP_EVERY == GAP_EVERY - 1 else duration
    raise AssertionError


def draw_number(number: int) -> np.ndarray:
    """A picture that shows its number in dark and light blocks: (3 * H / 2, W) uint8, yuv420p."""
    bits = (number >> np.arange(N_BLOCKS) & 1).reshape(HEIGHT // BLOCK, WIDTH // BLOCK)
    luma = np.kron(60 + 120 * bits, np.ones((BLOCK, BLOCK))).astype(np.uint8)
    return np.vstack([luma, np.full((HEIGHT // 2, WIDTH), 128, np.uint8)])


def read_number(picture: av.VideoFrame) -> int:
    """The number that `draw_number` drew."""
    luma = picture.to_ndarray(format="gray")
    blocks = luma.reshape(HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK).mean((1, 3)).reshape(-1)
    return sum(1 << i for i in np.flatnonzero(blocks > 128).tolist())


def iter_sound(stream: Any, seconds: int) -> Iterator[av.Packet]:
    """Packets of AAC: a short stretch, encoded once, again and again."""
    encoded: list[av.Packet] = []
    for i in range(N_DIFFERENT_SOUNDS):
        samples = np.sin(np.arange(SOUND_FRAME) * (0.02 + i / 400)).astype(np.float32)[None] / 2
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, i * SOUND_FRAME, Fraction(1, SOUND_RATE)
        encoded += stream.encode(frame)
    for i in range(seconds * SOUND_RATE // SOUND_FRAME):
        packet = av.Packet(bytes(encoded[i % len(encoded)]))
        packet.pts = packet.dts = i * SOUND_FRAME
        packet.duration, packet.time_base, packet.stream = SOUND_FRAME, Fraction(1, SOUND_RATE), stream
        yield packet


def iter_pictures(stream: Any, times: list[int]) -> Iterator[av.Packet]:
    """Packets of H.264."""
    for number, pts in enumerate(times):
        picture = av.VideoFrame.from_ndarray(draw_number(number), format="yuv420p")
        picture.pts, picture.time_base = pts, Fraction(1, 1000)
        yield from stream.encode(picture)
    yield from stream.encode(None)


def write_clip(path: Path, times: list[int]) -> None:
    """The clip, pictures and sound interleaved."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=15, options=ENCODER)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        audio: Any = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        sound = iter_sound(audio, -(-times[-1] // 1000))
        waiting = next(sound, None)
        for packet in iter_pictures(video, times):
            while waiting is not None and waiting.pts * waiting.time_base <= packet.dts * packet.time_base:
                container.mux(waiting)
                waiting = next(sound, None)
            container.mux(packet)
        for packet in ([waiting] if waiting else []) + list(sound):
            container.mux(packet)


class Unchanged(Upscaler):
    """In place of a model: gives every frame as it is, as much later as a model does."""

    def __init__(self) -> None:
        super().__init__(
            SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32), SimpleNamespace(metadata={}, name="none")
        )

    def upscale(self, frames: Iterable[Image], *_: Any, **__: Any) -> Iterator[Image]:
        """The frames."""
        held: deque[Image] = deque()
        for image in frames:
            held.append(image)
            if len(held) == FRAMES_HELD_BACK:
                yield held.popleft()
        yield from held


class Watcher:
    """Notes the resident size as frames are written."""

    def __init__(self) -> None:
        self.n_frames = 0
        self.rss_bytes: list[int] = []
        self.notices: list[str] = []

    def start(self, label: str, n_frames: int | None) -> None:
        """A job begins."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def advance(self, n_frames: int) -> None:
        """So many more frames were handed to the writer."""
        self.n_frames += n_frames
        if self.n_frames % SAMPLE_EVERY == 0:
            self.rss_bytes.append(resident_bytes())

    def notice(self, text: str) -> None:
        """Something the user should know."""
        self.notices.append(text)


def resident_bytes() -> int:
    """Resident size of this process now; where the system does not tell, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_times(path: Path) -> tuple[list[Fraction], Fraction, int]:
    """(The pictures' times, where the sound ends, its packets), all in seconds, without decoding."""
    times, sound_end, n_sound = [], Fraction(0), 0
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is None:
                continue
            if packet.stream.type == "video":
                times.append(packet.pts * packet.time_base)
            else:
                sound_end = (packet.pts + packet.duration) * packet.time_base
                n_sound += 1
    return sorted(times), sound_end, n_sound


def count_wrong_pictures(path: Path) -> int:
    """How many pictures of a clip do not show their number."""
    with av.open(str(path)) as container:
        return sum(read_number(picture) != i for i, picture in enumerate(container.decode(video=0)))


def measure(folder: Path, minutes: int, container: str) -> dict[str, Any]:
    """Write the clip, run the job, compare."""
    source, target = folder / f"in.{container}", folder / f"out.{container}"
    write_clip(source, plan_times(60 * minutes))
    watcher, started = Watcher(), time.perf_counter()
    job = Job(str(source), str(target), scale=1, encode=EncodeOptions(encoder_options=tuple(ENCODER.items())))
    with OpenJob(job) as opened:
        report = opened.run(Unchanged(), Settings(), watcher)
    job_s = time.perf_counter() - started
    (times, sound_end, n_sound), (got, got_sound_end, got_n_sound) = read_times(source), read_times(target)
    rss = watcher.rss_bytes
    tenth = max(1, len(rss) // 10)
    return {
        "container": container,
        "minutes": minutes,
        "frames": len(times),
        "frames_out": len(got),
        "packets_of_sound": n_sound,
        "packets_of_sound_out": got_n_sound,
        "other_times": sum(a != b for a, b in zip(times, got, strict=True)),
        "wrong_pictures": count_wrong_pictures(target),
        "video_end_s": [float(times[-1]), float(got[-1])],
        "sound_end_s": [float(sound_end), float(got_sound_end)],
        "rss_mib": {
            "early": round(max(rss[tenth : 2 * tenth] or rss) / 2**20, 1),
            "middle": round(max(rss[len(rss) // 2 - tenth : len(rss) // 2 + tenth] or rss) / 2**20, 1),
            "late": round(max(rss[-tenth:]) / 2**20, 1),
        },
        "job_s": round(job_s, 1),
        "notices": report.notices,
    }


def main() -> None:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--container", default="mp4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), arguments.minutes, arguments.container)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
