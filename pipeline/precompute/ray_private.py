"""A local Ray with fewer processes than `ray.init` can be told to start; tested with Ray 2.60."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private.node import Node


@contextmanager
def replaced(owner: object, **values: object) -> Iterator[None]:
    """While the block runs, attributes of a module or class have these values."""
    own = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
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
    with replaced(Node, **dict.fromkeys(names, _nothing)):
        yield []
