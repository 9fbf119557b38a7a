"""Run Ray Train's controller in this process, without the actors that trainings here do not ask.

Ray runs it in an actor: one more process that imports torch, and that the workers wait for. Here
the workers start at once, in processes that Ray has ready. Where Ray is of another version, this
file cannot be imported, and `training.ray.workers` leaves the controller to Ray.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.runtime_context import RuntimeContext
from ray.train import Result

from pipeline.precompute.ray_private import replaced
from training.ray.private import TrainController, WorkerGroup

LEFT_OUT = {
    # An actor that tells workers that their node will go: ours do not ask.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Handlers for all of this process.
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
}
"""Environment while a controller is made, and no longer: Ray passes such variables on to workers,
and a worker with an environment of its own needs a new process."""


def run_here(settings: dict[str, Any]) -> Result:
    """Make a controller with these settings, which are Ray's, and run it to its end.

    An exception of a signal handler ends it; the workers live on until Ray shuts down.
    """
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the result has the error
    # The placement group tells an autoscaler the same as these requests through an actor.
    policy = settings["scaling_policy"]
    policy.after_controller_start = policy._maybe_send_resource_request = _nothing
    with _environment(LEFT_OUT):
        controller = _Controller(**settings)
    loop = asyncio.new_event_loop()  # `asyncio.run` has an answer to Ctrl-C of its own
    try:
        loop.run_until_complete(controller.run())  # type: ignore[no-untyped-call]
    finally:
        loop.close()
    return controller.get_result()


def _nothing(*_: object) -> None: ...


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """While the block runs, variables that are not set have these values."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


class _WorkerGroup(WorkerGroup):
    def _start(self) -> None:
        # Workers get a handle of the actor that their controller is: here it is none.
        with replaced(RuntimeContext, current_actor=None):
            super()._start()  # type: ignore[no-untyped-call]


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup
