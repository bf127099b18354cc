"""Queues, errors and ends between the threads."""

import signal
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from flashvsr_cli.errors import InputError, InterruptError, OutputError
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.sink import SinkBase
from flashvsr_cli.video.source import SourceBase
from flashvsr_cli.video.threads import Channel, ChannelClosedError, ReadAhead, WriteBehind, queue_frames


def frame(index=0):
    return Frame(np.full((2, 2, 3), index, np.uint8), index, 1)


class Numbers(SourceBase):
    """Counts up; fails at `fails_at`."""

    def __init__(self, n_frames, fails_at=None):
        super().__init__()
        self.info = SourceInfo("numbers", "rgb24", (2, 2), Fraction(1, 25), "rgb24")
        self.n_frames, self.fails_at = n_frames, fails_at
        self.n_made = 0
        self.is_closed = False
        self.reader = None

    def __iter__(self) -> Iterator[Frame]:
        self.reader = threading.current_thread()
        for i in range(self.n_frames):
            if i == self.fails_at:
                raise InputError("broken")
            self.n_made += 1
            self.counters.frames += 1
            yield frame(i)

    def close(self):
        self.is_closed = True


class Collector(SinkBase):
    """Keeps frame numbers; waits for `gate` or fails at `fails_at`."""

    def __init__(self, fails_at=None, gate=None):
        super().__init__((2, 2), is_deep=False)
        self.got, self.fails_at, self.gate = [], fails_at, gate
        self.ends = []
        self.writer = self.committer = None

    def write(self, frame):
        self.writer = threading.current_thread()
        if self.gate is not None:
            self.gate.wait()
        if len(self.got) == self.fails_at:
            raise OutputError("full")
        self.got.append(frame.pts)

    def commit(self):
        self.ends.append("commit")
        self.committer = threading.current_thread()

    def abort(self):
        self.ends.append("abort")

    def facts(self):
        return {"frames": len(self.got)}


def n_threads():
    return sum(t.name.startswith("flashvsr-") for t in threading.enumerate())


def test_all_frames_in_order_on_another_thread():
    source = Numbers(100)
    with ReadAhead(source, n_frames=3) as reader:
        assert [f.pts for f in reader] == list(range(100))
    assert source.is_closed
    assert source.reader is not threading.current_thread()
    assert n_threads() == 0


def test_reading_ahead_is_bounded():
    source = Numbers(1000)
    with ReadAhead(source, n_frames=5) as reader:
        iterator = iter(reader)
        next(iterator)
        time.sleep(0.1)
        assert source.n_made <= 1 + 5 + 1


def test_error_comes_after_the_frames_before_it():
    with ReadAhead(Numbers(10, fails_at=4), n_frames=2) as reader:
        iterator = iter(reader)
        assert [next(iterator).pts for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(InputError, match="broken"):
            next(iterator)


def test_close_with_a_full_queue_ends_the_thread():
    source = Numbers(10**9)
    reader = ReadAhead(source, n_frames=2)
    next(iter(reader))
    reader.close()
    reader.close()
    assert source.is_closed
    assert n_threads() == 0


def test_close_without_iterating():
    source = Numbers(3)
    ReadAhead(source).close()
    assert source.is_closed


def test_all_frames_are_written_before_commit():
    sink = Collector()
    writer = WriteBehind(sink, n_frames=3)
    for i in range(50):
        writer.write(frame(i))
    writer.commit()
    assert sink.got == list(range(50))
    assert sink.ends == ["commit"]
    assert sink.committer is sink.writer is not threading.current_thread()
    assert sink.facts() == {"frames": 50}
    assert n_threads() == 0


def test_writing_behind_is_bounded():
    gate = threading.Event()
    sink = Collector(gate=gate)
    writer = WriteBehind(sink, n_frames=2)
    n_written = 0

    def fill():
        nonlocal n_written
        for i in range(10):
            writer.write(frame(i))
            n_written += 1

    thread = threading.Thread(target=fill)
    thread.start()
    time.sleep(0.1)
    assert n_written <= 3
    gate.set()
    thread.join()
    writer.commit()
    assert sink.got == list(range(10))


def test_write_error_reaches_the_caller():
    sink = Collector(fails_at=3)
    writer = WriteBehind(sink, n_frames=1)

    def write_many():
        for i in range(1000):
            writer.write(frame(i))

    with pytest.raises(OutputError, match="full"):
        write_many()
    writer.abort()
    assert sink.ends == ["abort"]
    assert n_threads() == 0


def test_write_error_of_the_last_frame_reaches_commit():
    sink = Collector(fails_at=3)
    writer = WriteBehind(sink, n_frames=10)
    for i in range(4):
        writer.write(frame(i))
    with pytest.raises(OutputError, match="full"):
        writer.commit()
    assert "commit" not in sink.ends
    writer.abort()


def test_abort_with_a_full_queue_writes_no_more():
    sink = Collector()
    writer = WriteBehind(sink, n_frames=30)
    for i in range(30):
        writer.write(frame(i))
    writer.abort()
    n_at_abort = len(sink.got)
    time.sleep(0.05)
    assert len(sink.got) == n_at_abort
    assert sink.ends == ["abort"]
    with pytest.raises(ChannelClosedError):
        writer.write(frame())


def test_seconds_of_work_are_measured_without_waiting():
    class Slow(Collector):
        def write(self, frame):
            time.sleep(0.02)
            super().write(frame)

    writer = WriteBehind(Slow(), n_frames=2)
    started = time.perf_counter()
    for i in range(5):
        writer.write(frame(i))
        if i == 0:
            time.sleep(0.1)  # the writer has nothing to do but its first frame
    writer.commit()
    assert 5 * 0.02 <= writer.busy_s < time.perf_counter() - started


@pytest.fixture
def interrupt_at_start(monkeypatch, handled_signals):  # noqa: ARG001
    """A signal that comes as a thread is started."""
    start = threading.Thread.start

    def start_interrupted(thread):
        signal.raise_signal(signal.SIGINT)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_interrupted)


@pytest.mark.usefixtures("interrupt_at_start")
def test_a_signal_while_the_reader_starts():
    source = Numbers(3)
    with pytest.raises(InterruptError), ReadAhead(source) as reader:
        next(iter(reader))
    assert source.is_closed
    assert n_threads() == 0


@pytest.mark.usefixtures("interrupt_at_start")
def test_a_signal_while_the_writer_starts():
    sink = Collector()
    with pytest.raises(InterruptError), WriteBehind(sink) as writer:
        writer.write(frame())
    assert sink.ends == ["abort"]
    assert n_threads() == 0


def test_channel_ends_both_sides():
    channel = Channel(1)
    channel.put(1)
    errors = []

    def put():
        try:
            channel.put(2)
        except ChannelClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    time.sleep(0.05)
    channel.close()
    thread.join(1)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(ChannelClosedError):
        channel.take()


@pytest.mark.parametrize(("frame_bytes", "n_frames"), [(1, 32), (2**20 * 30, 8), (2**31, 2)])
def test_queues_are_bounded_in_bytes(frame_bytes, n_frames):
    assert queue_frames(frame_bytes) == n_frames
