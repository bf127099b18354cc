"""What every input offers, whatever it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from flashvsr_cli.video.frame import Frame
from flashvsr_cli.video.info import SourceInfo
from flashvsr_cli.video.tracks import CopiedTracks

if TYPE_CHECKING:
    from av.container.core import Chapter  # a name of PyAV's type stubs only


@dataclass
class SourceCounters:
    """What happened while reading.

    Attributes:
        frames: frames handed out.
        corrupt_packets: packets that could not be read or decoded and were passed over.
        corrupt_frames: frames that came out damaged.
        repeated_frames: frames that repeat the one before in place of one that could not be decoded.
        repaired_timestamps: frames whose time was missing, repeated or went back.
    """

    frames: int = 0
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    repeated_frames: int = 0
    repaired_timestamps: int = 0

    def describe_damage(self, name: str) -> str | None:
        """The damage in a sentence about `name`; None if there was none."""
        if not self.corrupt_packets and not self.corrupt_frames:
            return None
        return (
            f"{name} is damaged: {self.corrupt_packets} packets cannot be read, "
            f"{self.corrupt_frames} frames come out damaged, "
            f"{self.repeated_frames} repeat the one before in place of a lost one."
        )


class Source(Protocol):
    """A stream of frames. It can be iterated once; decoding happens in the iterating thread.

    Attributes:
        info: what is known before reading.
        notices: sentences that the user should see.
        counters: what happened so far.
        tracks: packets to be copied to the output.
        chapters: chapter marks as PyAV gives and takes them.
    """

    info: SourceInfo
    notices: list[str]
    counters: SourceCounters
    tracks: CopiedTracks
    chapters: list["Chapter"]

    def __iter__(self) -> Iterator[Frame]:
        """The frames in display order. Raises `InputError` if fewer come out than the input promised."""
        ...

    def interrupt(self) -> None:
        """Makes a read that waits for a pipe give up; may be called from any thread."""
        ...

    def close(self) -> None:
        """Frees the input. Idempotent; not while another thread iterates."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SourceBase:
    """What the sources share: counters, notices, and a context that closes."""

    info: SourceInfo

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.counters = SourceCounters()
        self.tracks = CopiedTracks([])
        self.chapters: list[Chapter] = []

    def interrupt(self) -> None:
        """Nothing to interrupt: files do not wait."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
