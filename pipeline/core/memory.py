"""Let the process keep freed memory for reuse, and look for unreachable objects less often."""

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_LARGEST_KEPT = 32 << 20
"""glibc always returns larger blocks to the system."""
_NEVER = (1 << 31) - 1
_NEW_OBJECTS = 10_000
"""Between two garbage collections; Python's default is 700."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks of up to 32 MiB for reuse; return whether it could.

    By default it returns large blocks to the system, which clears each page that is requested
    again: a third of the time between a batch and the encoders on a CPU, 7 % of the `boundary` maps
    of a shard. Results do not change. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))


def collect_garbage_rarely() -> None:
    """Collect garbage after 10,000 new objects instead of 700.

    Libraries make millions of objects that stay: with the default, collections take a sixth of the
    seconds in which torch and Ray are imported.
    """
    gc.set_threshold(_NEW_OBJECTS)
