"""What reading and writing cost: this tool without its model, against the simplest loop that does the same work."""

import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import av
from av.video.reformatter import Interpolation, VideoReformatter

from flashvsr_cli.errors import UsageError
from flashvsr_cli.geometry import Size, plan_geometry
from flashvsr_cli.options import EncodeOptions
from flashvsr_cli.video.encoding import Encoding, plan_encoding
from flashvsr_cli.video.frame import Image
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.threads import ReadAhead, WriteBehind
from flashvsr_cli.video.writer import open_sink

ROUNDS = 3
EXTENSION = "mkv"


@dataclass(frozen=True)
class IoSpeed:
    """Frames per second from file to file, without a model.

    Attributes:
        source, target: (height, width) of input and output.
        n_frames: frames per round.
        codec: encoder of both.
        fps: of this tool's reader, queues and writer; median of the rounds.
        loop_fps: of the simplest loop; median of the rounds.
    """

    source: Size
    target: Size
    n_frames: int
    codec: str
    fps: float
    loop_fps: float

    @property
    def ratio(self) -> float:
        """`fps` over `loop_fps`: 1 is as fast as the loop."""
        return self.fps / self.loop_fps

    def to_json(self) -> dict[str, Any]:
        """The measurement as a JSON object."""
        return {**asdict(self), "ratio": self.ratio}

    def summary(self) -> str:
        """The measurement in a sentence."""
        return (
            f"{self.source[1]}x{self.source[0]} to {self.target[1]}x{self.target[0]}, {self.n_frames} frames, "
            f"{self.codec}: {self.fps:.1f} frames/s; simplest loop {self.loop_fps:.1f} frames/s; "
            f"ratio {self.ratio:.2f}."
        )


class _Enlarger:
    """Bicubic enlargement of 8-bit frames: the same in both programs, in place of the model."""

    def __init__(self, target: Size) -> None:
        self._target = target
        self._reformatter = VideoReformatter()

    def __call__(self, image: Image) -> Image:
        height, width = self._target
        frame = av.VideoFrame.from_numpy_buffer(image, format="rgb24")
        enlarged = self._reformatter.reformat(frame, width, height, interpolation=Interpolation.BICUBIC)
        return cast(Image, enlarged.to_ndarray())


def measure_io(path: Path, scale: float, options: EncodeOptions | None = None, rounds: int = ROUNDS) -> IoSpeed:
    """Runs both programs in turn on one clip, after one round of each that does not count.

    Args:
        path: a video of 8 bits.
        scale: output side over input side.
        options: encoder settings of both.
        rounds: how often each is measured.

    Raises:
        InputError: if the clip cannot be read.
        OutputError: if it cannot be encoded.
        UsageError: if it is deeper than 8 bits.
    """
    options = options or EncodeOptions()
    with open_source(str(path)) as source:
        info = source.info
    if info.bit_depth > 8:
        raise UsageError(f"{path} has {info.bit_depth} bits; the loop to compare with has 8.", "Use an 8-bit clip.")
    target = plan_geometry(info.size, scale).target
    encoding = plan_encoding(info, target, EXTENSION, options)
    ours, loop = [], []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"out.{EXTENSION}"
        for i_round in range(rounds + 1):
            n_frames, seconds = _time_ours(path, out, target, options)
            n_loop, loop_seconds = _time_loop(path, out, target, encoding)
            if n_loop != n_frames:
                raise AssertionError(f"the loop wrote {n_loop} frames, the tool {n_frames}")
            if i_round:
                ours.append(n_frames / seconds)
                loop.append(n_frames / loop_seconds)
    return IoSpeed(info.size, target, n_frames, encoding.codec, statistics.median(ours), statistics.median(loop))


def _time_ours(path: Path, out: Path, target: Size, options: EncodeOptions) -> tuple[int, float]:
    started = time.perf_counter()
    enlarge = _Enlarger(target)
    with open_source(str(path)) as source, WriteBehind(open_sink(str(out), source, target, options)) as writer:
        n_frames = 0
        with ReadAhead(source) as frames:
            for frame in frames:
                writer.write(replace(frame, image=enlarge(frame.image)))
                n_frames += 1
        writer.commit()
    return n_frames, time.perf_counter() - started


def _time_loop(path: Path, out: Path, target: Size, encoding: Encoding) -> tuple[int, float]:
    started = time.perf_counter()
    enlarge = _Enlarger(target)
    with av.open(str(path)) as source, av.open(str(out), "w") as sink:
        decoded = source.streams.video[0]
        decoded.thread_type = "AUTO"
        stream: Any = sink.add_stream(encoding.codec, rate=decoded.average_rate, options=dict(encoding.options))
        stream.height, stream.width = target
        stream.pix_fmt = encoding.pix_fmt
        n_frames = 0
        for picture in source.decode(decoded):
            image = cast(Image, picture.to_ndarray(format="rgb24"))
            frame = av.VideoFrame.from_ndarray(enlarge(image), format="rgb24")
            frame.pts = n_frames
            sink.mux(stream.encode(frame))
            n_frames += 1
        sink.mux(stream.encode(None))
    return n_frames, time.perf_counter() - started
