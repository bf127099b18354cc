"""Y4M, raw rgb24 and containers through real pipes of real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_cli.errors import InputError, OutputError
from flashvsr_cli.options import InputOptions
from flashvsr_cli.video.container_reader import ContainerSource
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.pipes import InterruptedPipeError, PipeInput, PipeOutput
from flashvsr_cli.video.pixel_format import describe_pixel_format
from flashvsr_cli.video.raw_reader import RawSource, Y4mSource
from flashvsr_cli.video.raw_writer import Y4mSink
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.y4m import CHROMA_FORMATS, Y4mHeader, parse_header, plane_layout

PROGRAM = """
import sys
from fractions import Fraction
from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.options import EncodeOptions, InputOptions
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.reader import open_source
from flashvsr_cli.video.threads import ReadAhead, WriteBehind
from flashvsr_cli.video.writer import open_sink

size, pipe_format, scale, location, target = sys.argv[1:]
inputs = InputOptions(raw_size=tuple(map(int, size.split("x"))) if size != "-" else None)
try:
    with open_source(location, inputs) as source:
        height, width = source.info.size
        scale = int(scale)
        options = EncodeOptions(pipe_format=None if pipe_format == "-" else pipe_format)
        sink = open_sink(target, source, (height * scale, width * scale), options)
        reader, writer = ReadAhead(source), WriteBehind(sink)
        try:
            for frame in reader:
                writer.write(Frame(frame.image.repeat(scale, 0).repeat(scale, 1), frame.pts, frame.duration))
            writer.commit()
        finally:
            writer.abort()
            reader.close()
except FlashVSRError as error:
    print(error.message, "|", error.next_step, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(size="-", pipe_format="-", scale=1, location="-", target="-", **pipes):
    arguments = [sys.executable, "-c", PROGRAM, size, pipe_format, str(scale), location, target]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, **pipes)


def run_pipe(data, **settings):
    process = start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, **settings)
    out, messages = process.communicate(data, timeout=60)
    return process.returncode, out, messages.decode()


def y4m_stream(chroma, size=(24, 32), n_frames=5, header=None, seed=0):
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


def split_y4m(data):
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


def test_y4m_to_y4m_through_a_process(y4m_stream, split_y4m):
    data, _ = y4m_stream("420jpeg", n_frames=7)
    code, out, messages = run_pipe(data, scale=2)
    assert (code, messages) == (0, "")
    header, frames = split_y4m(out)
    assert len(frames) == 7
    assert header == Y4mHeader((48, 64), Fraction(30000, 1001), chroma="420jpeg")


def test_raw_to_raw_through_a_process_is_exact():
    frames = np.random.default_rng(0).integers(0, 256, (6, 10, 14, 3), dtype=np.uint8)
    code, out, _ = run_pipe(frames.tobytes(), size="10x14", scale=2)
    assert code == 0
    assert np.array_equal(np.frombuffer(out, np.uint8).reshape(6, 20, 28, 3), frames.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("name", ["in.mkv", "in.ts"])
def test_container_to_matroska_through_a_process(make_clip, packets, tmp_path, name):
    clip = make_clip(name, pts=tuple(range(40)), n_audio=1)
    code, out, messages = run_pipe(clip.read_bytes())
    assert code == 0, messages
    (tmp_path / "out.mkv").write_bytes(out)
    expected, got = packets(clip, "audio"), packets(tmp_path / "out.mkv", "audio")
    assert len(got) == len(expected) > 50
    # MPEG-TS puts a header of seven bytes in front of every AAC packet; Matroska has it once.
    n_header = 7 if name.endswith(".ts") else 0
    assert [p[3] for p in got] == [p[3][n_header:] for p in expected]
    pts = sorted(p for p, *_ in packets(tmp_path / "out.mkv", "video"))
    assert len(pts) == 40
    wanted = sorted(p for p, *_ in packets(clip, "video"))
    assert max(abs(a - b) for a, b in zip(pts, wanted, strict=True)) <= Fraction(1, 1000)


def test_redirected_mp4_with_its_index_at_the_end(make_clip, tmp_path):
    clip = make_clip("in.mp4")
    with clip.open("rb") as stdin, (tmp_path / "out.mkv").open("wb") as stdout:
        process = start(stdin=stdin, stdout=stdout)
        assert process.wait(60) == 0, process.stderr.read()
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert sum(1 for _ in out.decode(video=0)) == 12


def test_mp4_that_cannot_be_streamed_says_so(make_clip):
    clip = make_clip("in.mp4", size=(192, 256), options=(("preset", "ultrafast"), ("crf", "1")), pts=tuple(range(40)))
    assert clip.stat().st_size > 200_000
    code, out, messages = run_pipe(clip.read_bytes())
    assert code == 1
    assert out == b""
    assert "from a pipe" in messages
    assert "save it to a file" in messages


@pytest.mark.parametrize(("pipe_format", "kind"), [("y4m", "y4m"), ("rgb24", "rgb24")])
def test_container_to_uncompressed(make_clip, decode, pipe_format, kind, split_y4m):
    clip = make_clip("in.mkv", codec="ffv1", options=())
    code, out, _ = run_pipe(b"", location=str(clip), pipe_format=pipe_format)
    assert code == 0
    if kind == "y4m":
        header, frames = split_y4m(out)
        assert (header.rate, header.size, header.chroma, len(frames)) == (25, (48, 64), "420mpeg2", 12)
    else:
        assert np.array_equal(np.frombuffer(out, np.uint8).reshape(12, 48, 64, 3), np.stack(decode(clip)))


def test_raw_stream_that_ends_in_a_frame(tmp_path):
    (tmp_path / "in.rgb").write_bytes(bytes(100))
    with (
        pytest.raises(InputError, match="middle of frame 1: 4 of 96"),
        open_source(str(tmp_path / "in.rgb"), InputOptions(raw_size=(4, 8))) as source,
    ):
        list(source)


def pipe_with(data):
    read_fd, write_fd = os.pipe()

    def feed():
        with os.fdopen(write_fd, "wb") as file:
            file.write(data)

    threading.Thread(target=feed, daemon=True).start()
    return read_fd


SHORT_GOP = (("preset", "ultrafast"), ("crf", "10"), ("g", "6"))


def open_pipe(data, options=None):
    return ContainerSource("pipe", PipeInput(pipe_with(data), "pipe", closes_fd=True), options or InputOptions())


def count_from_pipe(data):
    with open_pipe(data) as source:
        return sum(1 for _ in source)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("in.mkv", {"options": SHORT_GOP}),
        ("in.mkv", {"options": SHORT_GOP, "n_audio": 1}),
        ("in.webm", {"codec": "libvpx-vp9", "options": ()}),
        ("in.avi", {"codec": "mpeg4", "options": (("g", "6"),)}),
        ("in.flv", {"options": SHORT_GOP}),
        ("in.mp4", {"options": SHORT_GOP, "container_options": (("movflags", "+faststart"),)}),
    ],
)
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_stream_that_ends_before_what_it_promised(make_clip, name, settings, fraction):
    data = make_clip(name, pts=tuple(range(60)), size=(96, 128), **settings).read_bytes()
    assert count_from_pipe(data) == 60
    with pytest.raises(InputError, match=r"pipe is cut short: \d+ of (about )?6[01] frames") as caught:
        count_from_pipe(data[: int(len(data) * fraction)])
    assert "complete copy" in caught.value.next_step


def test_the_frames_before_the_cut_come_first(make_clip):
    data = make_clip("in.mkv", pts=tuple(range(60)), options=SHORT_GOP).read_bytes()
    with open_pipe(data[: len(data) // 2]) as source:
        with pytest.raises(InputError, match="cut short"):
            list(source)
        assert 20 < source.counters.frames < 40


def test_a_stretch_that_came_whole_is_not_cut_short(make_clip):
    data = make_clip("in.mkv", pts=tuple(range(60)), options=SHORT_GOP).read_bytes()
    with open_pipe(data[: len(data) // 2], InputOptions(max_frames=13)) as source:
        assert sum(1 for _ in source) == 13


def test_a_stream_without_its_seek_table_is_read(make_clip):
    data = make_clip("in.mkv", pts=tuple(range(60)), options=SHORT_GOP).read_bytes()
    assert count_from_pipe(data[:-10]) == 60


@pytest.mark.parametrize("container", ["matroska", "avi", "flv", "mpegts"])
def test_streams_that_promise_no_size_end_where_they_end(make_clip, write_live, container):
    data = write_live(make_clip("in.ts", pts=tuple(range(60)), options=SHORT_GOP, size=(96, 128)), container)
    assert count_from_pipe(data) == 60
    assert 20 < count_from_pipe(data[: len(data) // 2]) < 40


def test_a_redirected_file_that_is_cut_short(make_clip):
    clip = make_clip("in.mkv", pts=tuple(range(60)), options=SHORT_GOP)
    with clip.open("rb") as file, ContainerSource("whole", PipeInput(file.fileno(), "whole"), InputOptions()) as whole:
        assert sum(1 for _ in whole) == 60
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with (
        clip.open("rb") as file,
        ContainerSource("half", PipeInput(file.fileno(), "half"), InputOptions()) as half,
        pytest.raises(InputError, match=r"half is cut short: \d+ of about 60"),
    ):
        list(half)


@pytest.fixture
def feed_fifo(tmp_path):
    """`feed_fifo("name", data)` makes a named pipe that somebody writes `data` into, once."""
    threads = []

    def feed(name, data):
        os.mkfifo(tmp_path / name)
        threads.append(threading.Thread(target=(tmp_path / name).write_bytes, args=(data,), daemon=True))
        threads[-1].start()
        return str(tmp_path / name)

    yield feed
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_named_pipes_are_read_like_standard_input(make_clip, feed_fifo, y4m_stream):
    y4m, _ = y4m_stream("444", n_frames=3)
    for name, data, options, n_frames in [
        ("a", make_clip("in.mkv").read_bytes(), InputOptions(), 12),
        ("b", y4m, InputOptions(), 3),
        ("c", bytes(2 * 4 * 8 * 3), InputOptions(raw_size=(4, 8)), 2),
    ]:
        location = feed_fifo(name, data)
        with open_source(location, options) as source:
            assert source.info.name == location
            assert sum(1 for _ in source) == n_frames
        with pytest.raises(OSError, match="No such device"):
            os.open(location, os.O_WRONLY | os.O_NONBLOCK)  # nobody has it open to read any more


@pytest.mark.parametrize(("data", "message"), [(b"", "is empty"), (bytes(5000), "is not media that can be read from")])
def test_named_pipes_without_media_keep_their_name(feed_fifo, data, message):
    location = feed_fifo("in.mkv", data)
    with pytest.raises(InputError, match=f"in.mkv {message}"):
        open_source(location)


WAITING_PROGRAM = """
import sys
from flashvsr_cli.errors import InterruptError
from flashvsr_cli.interrupts import raise_on_signals
from flashvsr_cli.video.reader import open_source

raise_on_signals()
print("ready", flush=True)
try:
    open_source(sys.argv[1])
except InterruptError as error:
    sys.exit(error.exit_code)
"""


def test_ctrl_c_ends_the_wait_for_somebody_who_writes(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", WAITING_PROGRAM, str(tmp_path / "fifo")]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT


def test_frames_come_before_the_stream_ends(y4m_stream):
    """Nothing may wait for more bytes than a frame has."""
    read_fd, write_fd = os.pipe()
    data, _ = y4m_stream("444", size=(2, 4), n_frames=1)
    os.write(write_fd, data)
    source = Y4mSource("pipe", PipeInput(read_fd, "pipe", closes_fd=True), InputOptions())
    iterator = iter(source)
    assert next(iterator).image.shape == (2, 4, 3)
    os.close(write_fd)
    assert list(iterator) == []
    source.close()


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_short_reads(chunk):
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    read_fd, write_fd = os.pipe()

    def feed():
        data = frames.tobytes()
        for at in range(0, len(data), chunk):
            os.write(write_fd, data[at : at + chunk])
        os.close(write_fd)

    thread = threading.Thread(target=feed)
    thread.start()
    source = RawSource("pipe", PipeInput(read_fd, "pipe", closes_fd=True), InputOptions(raw_size=(5, 6)))
    assert np.array_equal(np.stack([f.image for f in source]), frames)
    thread.join()
    source.close()


def test_waiting_read_can_be_interrupted():
    read_fd, write_fd = os.pipe()
    stream = PipeInput(read_fd, "pipe", closes_fd=True)
    threading.Timer(0.1, stream.interrupt).start()
    started = time.monotonic()
    with pytest.raises(InterruptedPipeError):
        stream.read(10)
    assert time.monotonic() - started < 1
    os.close(write_fd)
    stream.close()


def test_waiting_write_can_be_interrupted():
    read_fd, write_fd = os.pipe()
    stream = PipeOutput(write_fd, "pipe")
    threading.Timer(0.1, stream.interrupt).start()
    started = time.monotonic()
    with pytest.raises(InterruptedPipeError):
        stream.write(bytes(10_000_000))
    assert time.monotonic() - started < 1
    os.close(read_fd)
    os.close(write_fd)


def test_closed_reader_is_an_output_error(make_clip):
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with open_source(str(make_clip("in.mp4"))) as source:
        sink = Y4mSink("standard output", PipeOutput(write_fd, "pipe"), source, (48, 64))
        frame = next(iter(source))
        with pytest.raises(OutputError, match="broken pipe") as caught:
            sink.write(frame)
        sink.abort()
    os.close(write_fd)
    assert "has ended" in caught.value.next_step


@pytest.mark.parametrize("pipe_format", ["y4m", "rgb24", "matroska"])
def test_downstream_program_that_stops_reading(make_clip, pipe_format):
    clip = make_clip("in.mkv", pts=tuple(range(200)), size=(96, 128), codec="ffv1", options=())
    process = start(location=str(clip), pipe_format=pipe_format, scale=4, stdout=subprocess.PIPE)
    process.stdout.read(1000)
    process.stdout.close()
    messages = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert "standard output cannot be written: broken pipe" in messages
    assert "Traceback" not in messages


def test_empty_standard_input():
    code, out, messages = run_pipe(b"")
    assert (code, out) == (1, b"")
    assert "standard input is empty" in messages


def test_garbage_on_standard_input():
    code, out, messages = run_pipe(os.urandom(4000))
    assert (code, out) == (1, b"")
    assert "standard input is not media" in messages
    assert "Traceback" not in messages


def test_a_frame_with_padded_rows_is_written_packed(tmp_path, split_y4m):
    (tmp_path / "in.rgb").write_bytes(bytes(4 * 8 * 3))
    from flashvsr_cli.video.writer import open_sink

    with open_source(str(tmp_path / "in.rgb"), InputOptions(raw_size=(4, 8))) as source:
        sink = open_sink(str(tmp_path / "out.y4m"), source, (4, 8))
        padded = np.zeros((4, 20, 3), np.uint8)[:, :8]
        sink.write(Frame(padded, 0, 1))
        sink.commit()
    assert len(split_y4m((tmp_path / "out.y4m").read_bytes())[1]) == 1
