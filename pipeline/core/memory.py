"""Memory that a process gives back, only to ask for it again at once."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt."""
_LARGEST_KEPT = 32 << 20
"""Larger pieces glibc always takes from the system and gives back."""
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Makes glibc keep what is freed, up to 32 MiB a piece, for what is asked for next.

    By default it gives large pieces back to the system, which clears every page that is asked for
    again: of a batch's way to the encoders on a CPU that is a third of the time, of the `boundary`
    maps of a shard 7 percent. Results do not change. Does nothing with another C library.

    Returns:
        Whether it could.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
