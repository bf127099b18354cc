"""What every output offers, whatever it is."""

from typing import Any, Protocol

from flashvsr_cli.geometry import Size
from flashvsr_cli.video.frame import Frame


class Sink(Protocol):
    """Takes frames of one size in display order. Nothing has its final name before `commit`.

    Attributes:
        notices: sentences that the user should see, complete once the sink is open.
        frame_bytes: bytes of one frame's array, for sizing queues.
    """

    notices: list[str]
    frame_bytes: int

    def write(self, frame: Frame) -> None:
        """Converts, encodes and writes a frame; its array must not change afterwards. Raises `OutputError`."""
        ...

    def commit(self) -> None:
        """Ends the output, brings it to the disk and gives it its final name. Raises `OutputError`."""
        ...

    def abort(self) -> None:
        """Removes what was written unless it was committed. Idempotent."""
        ...

    def interrupt(self) -> None:
        """Makes a write that waits for a pipe give up; may be called from any thread."""
        ...

    def facts(self) -> dict[str, Any]:
        """What was written, for the report."""
        ...


class SinkBase:
    """What the sinks share.

    Args:
        size: (height, width) of the frames.
        is_deep: whether they are uint16.
    """

    def __init__(self, size: Size, *, is_deep: bool) -> None:
        self.notices: list[str] = []
        self.frame_bytes = size[0] * size[1] * 3 * (2 if is_deep else 1)
        self.n_frames = 0

    def interrupt(self) -> None:
        """Nothing to interrupt: files do not wait."""
