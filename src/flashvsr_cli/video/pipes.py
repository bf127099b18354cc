"""Standard input and output as byte streams that another thread can interrupt.

A blocked read or write would keep a thread alive after Ctrl-C for as long as the other end of the pipe pleases.
Here every wait is a short poll that also looks at a flag.
"""

import os
import select
import stat
import threading

from flashvsr_cli.interrupts import is_pending

Writable = bytes | bytearray | memoryview
POLL_MS = 50
ATOMIC_WRITE_BYTES = select.PIPE_BUF
HEAD_BYTES = 4096


class InterruptedPipeError(Exception):
    """A read or write was given up because another thread asked for it."""


class PipeInput:
    """A file descriptor opened for reading, as the file object that PyAV and the raw parsers read.

    Args:
        fd: the descriptor.
        name: what messages call it.
        closes_fd: whether `close` closes the descriptor.
    """

    def __init__(self, fd: int, name: str, *, closes_fd: bool = False) -> None:
        self.name = name
        self._fd = fd
        self._closes_fd = closes_fd
        self._peeked = b""
        self._interrupted = threading.Event()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._head, self._n_bytes, self._has_ended = b"", 0, False

    def interrupt(self) -> None:
        """Makes a blocked and every later read raise `InterruptedPipeError`."""
        self._interrupted.set()

    def readable(self) -> bool:
        """True: the file protocol."""
        return True

    def seekable(self) -> bool:
        """Whether the descriptor is a redirected file and not a pipe."""
        return self._is_regular

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves within a redirected file."""
        if whence == os.SEEK_CUR:
            offset -= len(self._peeked)
        self._peeked = b""
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        """Position within a redirected file."""
        return os.lseek(self._fd, 0, os.SEEK_CUR) - len(self._peeked)

    def peek(self, n_bytes: int) -> bytes:
        """The next `n_bytes` bytes (fewer at the end), left to be read again."""
        while len(self._peeked) < n_bytes:
            more = self._read_some(n_bytes - len(self._peeked))
            if not more:
                break
            self._peeked += more
        return self._peeked[:n_bytes]

    def read(self, n_bytes: int) -> bytes:
        """At most `n_bytes` bytes, at least one unless the stream has ended."""
        if self._peeked:
            head, self._peeked = self._peeked[:n_bytes], self._peeked[n_bytes:]
            return head
        return self._read_some(n_bytes)

    def read_exactly(self, n_bytes: int) -> bytes:
        """`n_bytes` bytes, or fewer only if the stream ends before."""
        parts = []
        missing = n_bytes
        while missing:
            part = self.read(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_line(self, max_bytes: int) -> bytes | None:
        """The bytes up to the next newline, which is taken too; None if it is not among the next `max_bytes`."""
        while b"\n" not in self._peeked[:max_bytes]:
            more = self._read_some(max_bytes) if len(self._peeked) < max_bytes else b""
            if not more:
                return None
            self._peeked += more
        line, self._peeked = self._peeked.split(b"\n", 1)
        return line

    def head(self) -> bytes:
        """The first `HEAD_BYTES` bytes, as far as they have come."""
        return os.pread(self._fd, HEAD_BYTES, 0) if self._is_regular else self._head

    def n_delivered(self) -> int | None:
        """How many bytes there are in all; None as long as the end has not been reached."""
        if self._is_regular:
            return os.fstat(self._fd).st_size
        return self._n_bytes if self._has_ended else None

    def close(self) -> None:
        """Closes the descriptor if it belongs to this object. Idempotent."""
        if self._closes_fd:
            self._closes_fd = False
            os.close(self._fd)

    def _read_some(self, n_bytes: int) -> bytes:
        while not self._interrupted.is_set():
            if self._is_regular or self._poll.poll(POLL_MS):
                data = os.read(self._fd, n_bytes)
                self._head += data[: HEAD_BYTES - len(self._head)]
                self._n_bytes += len(data)
                self._has_ended = not data
                return data
        raise InterruptedPipeError


class PipeOutput:
    """A file descriptor opened for writing, as the file object that PyAV and the raw writers fill.

    Args:
        fd: the descriptor; it stays open.
        name: what messages call it.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.closed = False
        self.n_bytes = 0
        self._fd = fd
        self._interrupted = threading.Event()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)

    def interrupt(self) -> None:
        """Makes a blocked and every later write raise `InterruptedPipeError`."""
        self._interrupted.set()

    def writable(self) -> bool:
        """True: the file protocol."""
        return True

    def seekable(self) -> bool:
        """False: what went down a pipe is gone."""
        return False

    def write(self, data: Writable) -> int:
        """Writes all of `data`.

        Raises:
            BrokenPipeError: if nobody reads any more.
            InterruptedPipeError: if another thread called `interrupt`, or a signal came where they are held back.
        """
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            if self._interrupted.is_set() or is_pending():
                raise InterruptedPipeError
            if self._is_regular:
                written += os.write(self._fd, view[written:])
            elif self._poll.poll(POLL_MS):
                # A pipe that polls as writable takes this many bytes without blocking.
                written += os.write(self._fd, view[written : written + ATOMIC_WRITE_BYTES])
        self.n_bytes += written
        return written

    def commit(self) -> None:
        """Ends the output; the descriptor stays open."""
        self.closed = True

    def abort(self) -> None:
        """Gives the output up; what was written cannot be taken back."""
        self.interrupt()
        self.closed = True
