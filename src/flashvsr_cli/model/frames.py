"""Frames that wait in another form than the network takes them in."""

from typing import Protocol

from torch import Tensor


class Frames(Protocol):
    """Frames (T, 3, H, W) in [-1, 1], of which only a slice needs to exist at a time. A tensor is one."""

    def __len__(self) -> int:
        """T."""
        ...

    def __getitem__(self, frames: slice, /) -> Tensor:
        """Some of them."""
        ...
