"""Giving freed memory back to the system while a CPU computes."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def return_freed_memory() -> None:
    """Return what was freed but kept by the C library's allocator.

    Layers free blocks of many sizes below its limit for separate mappings, so that without this a stream on a CPU
    holds half as much again as it uses. glibc alone offers it; elsewhere nothing happens.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


@cache
def _find_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
