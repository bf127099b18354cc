"""Between host and device without waiting: uploads from pinned memory, downloads fetched a little later."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flashvsr_cli.video.frame import Image

GROUPS_IN_FLIGHT = 2
"""Groups of frames whose download is under way while the device computes on: one chunk."""


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device; from pinned memory, so that the copy waits for nothing computed before."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class Downloads:
    """Frames on their way to the host. On a CUDA device they come out later than they are put in, on a CPU at once.

    Args:
        dtype: of the arrays that come out.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._in_flight: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def put(self, frames: Tensor) -> Iterator[Image]:
        """Send a group (T, H, W, 3) on its way; yields the frames of groups that have arrived."""
        if not frames.is_cuda:
            yield from frames.numpy().astype(self._dtype, copy=False)
            return
        # The arrays that are handed out are this memory itself; it returns to torch's pool when the last one is gone.
        on_host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        on_host.copy_(frames, non_blocking=True)
        # Blocking: who waits for it sleeps, and leaves the core to the reader and the encoder.
        arrived = torch.cuda.Event(blocking=True)
        arrived.record(torch.cuda.current_stream(frames.device))
        self._in_flight.append((on_host, arrived))
        if len(self._in_flight) > GROUPS_IN_FLIGHT:
            yield from self._take()

    def flush(self) -> Iterator[Image]:
        """The frames still under way."""
        while self._in_flight:
            yield from self._take()

    def _take(self) -> Iterator[Image]:
        on_host, arrived = self._in_flight.popleft()
        arrived.synchronize()
        yield from on_host.numpy().astype(self._dtype, copy=False)
