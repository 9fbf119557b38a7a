"""Every import from Ray's private modules; tested with Ray 2.60.

Ray has no public name for the error of workers that start too late, for the callback that sees the
workers of a run, for the callbacks that are left out, and for the id of a placement group. What
`training.ray.controller` needs besides is missing here where Ray is of another version.
"""

from contextlib import suppress

from ray._raylet import PlacementGroupID
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from pipeline.precompute.ray_private import TESTED

if TESTED:
    with suppress(ImportError):
        from ray.train.v2._internal.execution.controller import TrainController

__all__ = [
    "DatasetsCallback",
    "PlacementGroupCleanerCallback",
    "PlacementGroupID",
    "TrainController",
    "WorkerGroup",
    "WorkerGroupCallback",
    "WorkerGroupStartupTimeoutError",
]
