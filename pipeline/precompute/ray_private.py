"""A local Ray with fewer processes than `ray.init` can be told to start; tested with Ray 2.60."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray

TESTED = ray.__version__.startswith("2.60.")
"""Whether parts of Ray may be replaced. Another version starts as it does, which takes longer."""
node_class: type = object
if TESTED:
    with suppress(ImportError):
        from ray._private.node import Node as node_class


@contextmanager
def replaced(owner: object, **values: object) -> Iterator[None]:
    """While the block runs, those attributes that the module or class has have these values."""
    own = {name: getattr(owner, name) for name in values if hasattr(owner, name)}
    try:
        for name in own:
            setattr(owner, name, values[name])
        yield
    finally:
        for name, value in own.items():
            setattr(owner, name, value)


def _nothing(*_: object, **__: object) -> None: ...


@contextmanager
def small_head() -> Iterator[list[bytes]]:
    """While the block runs, a Ray that starts here leaves out processes that nobody asks.

    These are the server of its dashboard, of which only reports of Ray's use are left and which Ray
    waits for, an autoscaler, and a reader of what workers print. Yields an empty list, as
    `ray_session.without_lines` where it drops no line.
    """
    names = ("start_api_server", "start_monitor", "start_log_monitor")
    with replaced(node_class, **dict.fromkeys(names, _nothing)):
        yield []
