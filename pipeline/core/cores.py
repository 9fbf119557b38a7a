"""The cores that this process may use."""

import os
from collections.abc import Collection


def own_cores() -> Collection[int]:
    """Numbers of the cores; where the system does not say which (macOS), of all."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores: Collection[int] = range(os.cpu_count() or 1) if affinity is None else affinity(0)
    return cores
