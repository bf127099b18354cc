"""Reading ahead and writing behind: each on a thread of its own, with a bounded queue between."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from flashvsr_cli.interrupts import Monitor, held_back
from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.sink import Sink
from flashvsr_cli.video.source import Source

QUEUE_BYTES = 256 * 2**20
MIN_QUEUE_FRAMES, MAX_QUEUE_FRAMES = 2, 32

T = TypeVar("T")


class ChannelClosedError(Exception):
    """The channel was given up by the other side."""


class Channel(Generic[T]):
    """A bounded queue between two threads that either side can end at once.

    Args:
        capacity: items that may wait.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._is_finished = False
        self._is_closed = False
        self._changed = Monitor()

    def put(self, item: T) -> None:
        """Adds an item, waiting for room. Raises `ChannelClosedError` if the channel was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._items) < self._capacity)
            if self._is_closed:
                raise ChannelClosedError
            self._items.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """Says that no more items will be put; those waiting can still be taken."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def take(self) -> T | None:
        """The next item, waiting for one; None after the last. Raises `ChannelClosedError` if closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._is_finished or bool(self._items))
            if self._is_closed:
                raise ChannelClosedError
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Throws away what waits and wakes both sides. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()


def queue_frames(bytes_per_frame: int) -> int:
    """How many frames may wait so that a queue stays within its memory."""
    return max(MIN_QUEUE_FRAMES, min(MAX_QUEUE_FRAMES, QUEUE_BYTES // max(1, bytes_per_frame)))


class ReadAhead:
    """A source whose frames are decoded on a thread of its own.

    The thread starts with `start`, or else with the iteration. Its exceptions are raised in the iterating thread after
    the frames that came before them.

    Args:
        source: what to read; belongs to this object from now on.
        n_frames: frames that may wait; by default what fits the queue's memory.
    """

    def __init__(self, source: Source, n_frames: int | None = None) -> None:
        self._source = source
        height, width = source.info.size
        sample_bytes = 1 if source.info.bit_depth <= 8 else 2
        self._channel: Channel[Frame] = Channel(n_frames or queue_frames(height * width * 3 * sample_bytes))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.busy_s = 0.0

    def start(self) -> None:
        """Begin to decode, as far as the queue goes. Idempotent."""
        if self._thread is None:
            with held_back():
                self._thread = threading.Thread(target=self._read, name="flashvsr-reader", daemon=True)
                self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        self.start()
        while (frame := self._channel.take()) is not None:
            yield frame
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            frames = iter(self._source)
            while True:
                started = time.perf_counter()
                frame = next(frames, None)
                self.busy_s += time.perf_counter() - started
                if frame is None:
                    break
                self._channel.put(frame)
        except ChannelClosedError:
            return
        except BaseException as error:  # noqa: BLE001 - carried to the thread that iterates
            self._error = error
        self._channel.finish()

    def interrupt(self) -> None:
        """Stops the thread at its next step; may be called from any thread."""
        self._channel.close()
        self._source.interrupt()

    def close(self) -> None:
        """Stops the thread, waits for it, and closes the source. Idempotent."""
        self.interrupt()
        if self._thread is not None:
            self._thread.join()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WriteBehind:
    """A sink that converts, encodes, writes and commits on a thread of its own.

    The thread starts with the first frame. Its error is raised by the next `write` or by `commit`. It commits too: what
    a signal raises on the main thread would be lost in a callback of the muxer, and bytes with it.

    Args:
        sink: where to write; belongs to this object from now on.
        n_frames: frames that may wait; by default what fits the queue's memory.
    """

    def __init__(self, sink: Sink, n_frames: int | None = None) -> None:
        self._sink = sink
        self._channel: Channel[Frame] = Channel(n_frames or queue_frames(sink.frame_bytes))
        self._error: BaseException | None = None
        self._is_committed = False
        self.busy_s = 0.0
        self._thread: threading.Thread | None = None

    def write(self, frame: Frame) -> None:
        """Queues a frame; its array must not change afterwards."""
        self._start()
        try:
            self._channel.put(frame)
        except ChannelClosedError:
            self._raise_error()
            raise

    def commit(self) -> None:
        """Waits until all frames are written, then ends the output under its final name.

        Raises:
            ChannelClosedError: another thread called `interrupt` meanwhile, and the output has not got its name.
        """
        self._channel.finish()
        self._start().join()
        self._raise_error()
        if not self._is_committed:
            raise ChannelClosedError

    def abort(self) -> None:
        """Stops the thread, waits for it, and removes what was written. Idempotent; nothing after `commit`."""
        self._channel.close()
        self._sink.interrupt()
        if self._thread is not None:
            self._thread.join()
        self._sink.abort()

    def interrupt(self) -> None:
        """Stops the thread at its next step; may be called from any thread."""
        self._channel.close()
        self._sink.interrupt()

    def _start(self) -> threading.Thread:
        if self._thread is None:
            with held_back():
                self._thread = threading.Thread(target=self._run, name="flashvsr-writer", daemon=True)
                self._thread.start()
        return self._thread

    def _run(self) -> None:
        try:
            while True:
                frame = self._channel.take()
                started = time.perf_counter()
                if frame is None:
                    break
                self._sink.write(frame)
                self.busy_s += time.perf_counter() - started
            self._sink.commit()
            self._is_committed = True
            self.busy_s += time.perf_counter() - started
        except ChannelClosedError:
            return
        except BaseException as error:  # noqa: BLE001 - carried to the thread that writes
            self._error = error
            self._channel.close()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
