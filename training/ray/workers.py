"""Ray Train's workers: call a function on every rank, joined by ``torch.distributed``."""

import asyncio
import importlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from pipeline.core.errors import JobError, find_job_error
from pipeline.core.memory import collect_garbage_rarely
from pipeline.core.progress import listening
from pipeline.storage.atomic import write_atomically
from training.config.resources import Resources, Wanted, first_resources
from training.core.distributed import rank
from training.core.threads import sharing_threads, threads_set_by_user
from training.ray.nodes import live_nodes
from training.ray.private import (
    DatasetsCallback,
    PlacementGroupCleanerCallback,
    WorkerGroup,
    WorkerGroupCallback,
    WorkerGroupStartupTimeoutError,
)
from training.record.relay import Relay, shown

PLACEMENT_GROUP_FILE = "ray/placement-group"
"""Below a run's folder: the hex name of the placement group that its workers hold or held."""
FAILURES = (TrainingFailedError, RayActorError)
"""What `fit` of a trainer raises."""

Argument = TypeVar("Argument")
Returned = TypeVar("Returned")
Function = Callable[[Argument, torch.device], Returned]


class _Trainer(TorchTrainer):
    """Ray's trainer without its placement-group cleaner, its data sets and its answer to Ctrl-C.

    The cleaner asks whichever Ray it finds first on the machine whether the controller still lives:
    beside another cluster it removes the workers of a healthy run (Ray 2.60). Ray frees what a job
    held when the job ends. The data sets cost a process, even if there are none. On Ctrl-C Ray
    aborts without a checkpoint; ours is in ``training.engine.stopping``. The controller runs in
    this process where it can.
    """

    def _initialize_and_run_controller(self, **settings: Any) -> Result:  # noqa: ANN401
        if (run := _controller_here()) is not None:
            return run(settings)
        # It costs a process, which tells workers that their node will go: ours do not ask.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # mypy sees the trainer of Ray Train V1.
        result: Result = super()._initialize_and_run_controller(**settings)  # type: ignore[misc]
        return result

    def _register_sigint_handler(self, controller: object) -> None: ...

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        # mypy sees the trainer of Ray Train V1.
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()  # type: ignore[misc]
        left_out = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in callbacks if not isinstance(callback, left_out)]


def _controller_here() -> Callable[[dict[str, Any]], Result] | None:
    """What runs a controller in this process; None: Ray is to run it in an actor.

    So it is with another version of Ray, and in a notebook, whose event loop is running.
    """
    try:
        from training.ray.controller import run_here
    except ImportError:
        return None
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_here
    return None


class _NotesPlacementGroup(WorkerGroupCallback):
    """Writes down what the workers hold, for a sweep that outlives the process of its trial."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PLACEMENT_GROUP_FILE

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        handle = worker_group.get_worker_group_state().placement_group_handle
        write_atomically(self._path, handle.placement_group.id.hex().encode())


def started_by_ray() -> bool:
    """Whether Ray started this process, and so set its OMP_NUM_THREADS: that is not the user's."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return submitted or (
        ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    )


def make_trainer(
    function: Function[Argument, Returned],
    argument: Argument,
    resources: Resources,
    folder: Path,
    *,
    threads: int | None = None,
) -> TorchTrainer:
    """A trainer that calls ``function(argument, device)`` once on every worker.

    The function is of an importable module. ``fit`` raises one of ``FAILURES`` at the first failure
    of a worker; the ``return_value`` of its result is what rank 0 returned. The folder takes the
    lines and the progress of rank 0 (``training.record.relay``), the name of the workers'
    placement group, and the files of Ray Train. Each worker uses ``threads`` threads; None:
    what OMP_NUM_THREADS says here or, where Ray has set that, all of the worker's cores.
    """
    cpus, use_gpu = resources.cpus_per_worker, resources.use_gpu
    return _Trainer(
        _call,  # type: ignore[arg-type]  # V1's; V2 passes on what is returned
        train_loop_config={
            # By name: the controller, which gets this too, would import torchvision with it.
            "module": function.__module__,
            "name": function.__name__,
            "argument": argument,
            "folder": folder,
            "cpus": cpus,
            "fixed_threads": threads or (cpus if started_by_ray() else threads_set_by_user()),
        },
        # Decisions and evaluation results cross ranks on the CPU, gradients on the device.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            # A new name: Ray Train would continue an earlier start of the same name.
            name=datetime.now(UTC).strftime("start-%Y%m%d-%H%M%S-%f"),
            storage_path=str(folder / "ray"),
            callbacks=[_NotesPlacementGroup(folder)],  # type: ignore[list-item]  # V1's, again
            # Every failure ends it. Ray would try a wrong input again, and its elastic workers may
            # be of a number that does not divide the batch.
            failure_config=FailureConfig(  # type: ignore[call-arg]  # mypy sees that of V1
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )


def _call(call: dict[str, Any]) -> object:
    collect_garbage_rarely()
    function = getattr(importlib.import_module(call["module"]), call["name"])
    sharing = sharing_threads(limit=call["cpus"], fixed=call["fixed_threads"])
    with sharing, listening(Relay(call["folder"]) if rank() == 0 else None):
        return function(call["argument"], get_device())


def call_on_workers(
    function: Function[Argument, Returned], argument: Argument, num_workers: Wanted, folder: Path
) -> Returned:
    """Calls ``function(argument, device)`` on every rank, and shows here what rank 0 says.

    The function is of an importable module, and what rank 0 returns is returned. ``auto`` is one
    rank per GPU of the cluster, or per node without GPUs. The folder is for temporary files; every
    node sees it under this path.

    Raises:
        InputError: the cluster cannot hold so many workers.
        JobError: any rank raised one.
    """
    nodes = [node.resources for node in live_nodes()]
    resources = first_resources(num_workers, nodes, lambda _: True)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=".workers-", dir=folder, ignore_cleanup_errors=True) as name,
        shown(Path(name)),
    ):
        try:
            result = make_trainer(function, argument, resources, Path(name)).fit()
        except FAILURES as error:
            raise job_error(error) or error from error
        returned: Returned = result.return_value  # type: ignore[attr-defined]  # V1's, again
        return returned


def job_error(error: BaseException) -> JobError | None:
    """The ``JobError`` that made a worker fail; None if it failed otherwise."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    return next(filter(None, map(find_job_error, failures)), None)


def was_waiting(error: BaseException) -> bool:
    """Whether the workers only did not get their resources in time, which others may hold."""
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )
