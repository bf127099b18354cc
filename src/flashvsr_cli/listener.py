"""Who is told how far a job is; `console.py` has the implementations."""

from typing import Protocol


class Listener(Protocol):
    """Whoever shows the user how far a job is."""

    def start(self, label: str, n_frames: int | None) -> None:
        """A job begins; `n_frames` is None if the input does not say."""
        ...

    def stage(self, text: str) -> None:
        """What is being done now."""
        ...

    def advance(self, n_frames: int) -> None:
        """So many more frames were handed to the writer."""
        ...

    def skip(self, n_frames: int) -> None:
        """So many more frames need not be computed: an earlier run has them."""
        ...

    def notice(self, text: str) -> None:
        """Something the user should know."""
        ...
