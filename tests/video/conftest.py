"""Clips encoded on the spot, and small tools to look into files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.threads import ReadAhead, WriteBehind
from flashvsr_cli.video.writer import open_sink
from flashvsr_cli.video.y4m import CHROMA_FORMATS, Y4mHeader, parse_header, plane_layout

SIZE = (48, 64)


@dataclass(frozen=True)
class Clip:
    """How to make a clip; times in ticks of `time_base`."""

    pts: tuple[int, ...] = tuple(range(12))
    durations: tuple[int, ...] | None = None
    time_base: Fraction = Fraction(1, 25)
    rate: Fraction = Fraction(25)
    size: tuple[int, int] = SIZE
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = (("preset", "ultrafast"), ("crf", "10"))
    n_audio: int = 0
    audio_codec: str = "aac"
    rotation: float = 0
    hflip: bool = False
    aspect: Fraction | None = None
    color: tuple[int, int, int, int] = (0, 2, 2, 2)
    container_options: tuple[tuple[str, str], ...] = ()
    title: str | None = None


def draw(size: tuple[int, int], index: int) -> np.ndarray:
    """A smooth picture that differs from frame to frame: uint8 RGB, nothing saturated."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [np.sin(x / 9 + index / 3), np.sin(y / 7 - index / 5), np.sin((x + y) / 11 + index)]
    return np.stack([(128 + 70 * wave) for wave in waves], -1).astype(np.uint8)


def _write_audio(stream, seconds: Fraction) -> Iterable[av.Packet]:
    n_samples = 1024
    for i in range(int(seconds * 48000) // n_samples + 1):
        samples = (np.sin(np.arange(n_samples) * 0.05 + i) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(samples[None], 2, 0).T.reshape(1, -1).copy(), "s16", "stereo")
        frame.sample_rate = 48000
        frame.pts = i * n_samples
        frame.time_base = Fraction(1, 48000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def write_clip(path: Path, clip: Clip) -> Path:
    with av.open(str(path), "w", container_options=dict(clip.container_options)) as container:
        stream = container.add_stream(clip.codec, rate=clip.rate, options=dict(clip.options))
        stream.height, stream.width = clip.size
        stream.pix_fmt = clip.pix_fmt
        stream.time_base = stream.codec_context.time_base = clip.time_base
        context = stream.codec_context
        context.color_range, context.color_primaries, context.color_trc, context.colorspace = clip.color
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        if clip.rotation or clip.hflip:
            stream.set_display_rotation(clip.rotation, hflip=clip.hflip)
        if clip.title:
            container.metadata["title"] = clip.title
        audio = [container.add_stream(clip.audio_codec, rate=48000) for _ in range(clip.n_audio)]
        seconds = (max(clip.pts) + 1) * clip.time_base if clip.pts else Fraction(1)
        sound = [p for a in audio for p in _write_audio(a, seconds)]
        pictures = []
        for i, pts in enumerate(clip.pts):
            frame = av.VideoFrame.from_ndarray(draw(clip.size, i), "rgb24")
            frame = frame.reformat(format=clip.pix_fmt)
            frame.pts, frame.time_base = pts, clip.time_base
            pictures += stream.encode(frame)
        pictures += stream.encode(None)
        if clip.durations:
            lengths = dict(zip(clip.pts, clip.durations, strict=True))
            for packet in pictures:
                packet.duration = lengths[packet.pts]
        everything = [*pictures, *sound]
        for packet in sorted(everything, key=lambda p: p.dts * Fraction(p.time_base)):
            container.mux(packet)
    return path


@pytest.fixture
def make_clip(tmp_path) -> Callable[..., Path]:
    """`make_clip("name.mp4", n_audio=1, ...)` writes a clip and returns its path."""

    def make(name: str, **changes) -> Path:
        return write_clip(tmp_path / name, replace(Clip(), **changes))

    return make


class _Unseekable:
    """What a muxer sees of a pipe."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


@pytest.fixture
def write_live() -> Callable[[Path, str], bytes]:
    """`write_live(clip, format)`: a clip's packets in a container whose writer could not go back to its header."""

    def copy(path: Path, container_format: str) -> bytes:
        target = _Unseekable()
        with av.open(str(path)) as opened, av.open(target, "w", format=container_format) as out:
            streams = {s.index: out.add_stream_from_template(s) for s in opened.streams}
            for packet in opened.demux():
                if packet.size:
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
        return bytes(target.data)

    return copy


def _pass_through(source_location, target, options=None, input_options=None, scale=1, threads=True):
    with open_source(str(source_location), input_options or InputOptions()) as source:
        height, width = source.info.size
        sink = open_sink(str(target), source, (height * scale, width * scale), options or EncodeOptions())
        writer = WriteBehind(sink) if threads else sink
        reader = ReadAhead(source) if threads else source
        try:
            for frame in reader:
                image = frame.image.repeat(scale, 0).repeat(scale, 1) if scale > 1 else frame.image
                writer.write(replace(frame, image=image))
            writer.commit()
        finally:
            writer.abort()
            reader.close()
    return source, sink


@pytest.fixture
def pass_through() -> Callable:
    """Reads an input and writes it unchanged (or with repeated pixels) through the real reader, queues and writer."""
    return _pass_through


def _packets(path, kind: str, index: int = 0) -> list[tuple]:
    with av.open(str(path)) as container:
        stream = [s for s in container.streams if s.type == kind][index]
        base = stream.time_base
        return [
            (p.pts * base, None if p.dts is None else p.dts * base, p.duration * base, bytes(p))
            for p in container.demux(stream)
            if p.size
        ]


@pytest.fixture
def packets() -> Callable:
    """(pts, dts, duration in exact seconds, bytes) of one stream of a file."""
    return _packets


def _decode(path) -> list[np.ndarray]:
    with open_source(str(path)) as source:
        return [np.array(frame.image) for frame in source]


@pytest.fixture
def decode() -> Callable:
    """All frames of a location through the project's reader."""
    return _decode


def _y4m_stream(chroma, size=(24, 32), n_frames=5, header=None, seed=0):
    layout = plane_layout(CHROMA_FORMATS[chroma], size)
    header = header or Y4mHeader(size, Fraction(30000, 1001), chroma=chroma)
    rng = np.random.default_rng(seed)
    frames = []
    bits = describe_pixel_format(CHROMA_FORMATS[chroma]).bits
    for _ in range(n_frames):
        planes = []
        for i_plane, (rows, row_bytes) in enumerate(layout.planes):
            step = 2 ** (bits - 8)
            low, high = (90, 160) if i_plane in (0, 3) else (118, 138)
            samples = row_bytes if bits == 8 else row_bytes // 2
            smooth = (
                rng.integers(low * step, high * step) + np.add.outer(np.arange(rows), np.arange(samples)) * step // 8
            )
            planes.append(smooth.astype(np.uint8 if bits == 8 else np.uint16))
        frames.append(planes)
    body = b"".join(b"FRAME\n" + b"".join(p.tobytes() for p in planes) for planes in frames)
    return header.line() + body, frames


def _split_y4m(data):
    line, rest = data.split(b"\n", 1)
    header = parse_header(line)
    layout = plane_layout(CHROMA_FORMATS[header.chroma], header.size)
    n_bytes = layout.n_bytes
    frames = []
    while rest:
        assert rest[:6] == b"FRAME\n"
        frames.append(rest[6 : 6 + n_bytes])
        assert len(frames[-1]) == n_bytes
        rest = rest[6 + n_bytes :]
    return header, frames


@pytest.fixture
def y4m_stream() -> Callable:
    """`y4m_stream(chroma, size=, n_frames=, header=)` gives a stream's bytes and the planes in it."""
    return _y4m_stream


@pytest.fixture
def split_y4m() -> Callable:
    """Divides the bytes of a stream into its header and the bytes of each frame."""
    return _split_y4m
