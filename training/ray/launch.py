"""Ray Train around the loop: workers, process group, restarts, and a gentle stop."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from pipeline.core.errors import InputError
from pipeline.core.progress import WARNING, Silence, listening
from pipeline.precompute.ray_session import ray_running
from training.config.pretrain import PretrainConfig, write_config
from training.config.resources import Resources, fewer_resources, first_resources
from training.core.checkpoint import CheckpointStore
from training.core.distributed import rank
from training.engine.loop import RunResult, pretrain
from training.engine.preflight import can_split, preflight, total_steps
from training.engine.stopping import asked_to_stop
from training.engine.threads import counted, threads_beside_others
from training.ray.nodes import answering_nodes, check_nodes, live_nodes
from training.ray.waiting import workers_asked_for
from training.record.metrics import latest_values
from training.record.relay import Relay, say, shown

STOP_FILE = "stop-requested"
PLACEMENT_GROUP_FILE = "ray/placement-group"
"""Below a run's folder: the hex name of the placement group that its workers hold or held."""
STOP_POLL_SECONDS = 0.5
RESTART_WAIT_SECONDS, RESTART_POLL_SECONDS = 600.0, 5.0
"""How long a run waits for nodes where the ones that are left hold no worker."""


class RayTrainContext:
    """The loop's view of a Ray Train worker."""

    def __init__(self, out: Path) -> None:
        self.device: torch.device = get_device()
        self._stop_file = out / STOP_FILE
        self._asked_at, self._stop = 0.0, False

    def report(self, values: dict[str, float]) -> None:
        """Hands the values to Ray Train."""
        ray.train.report(values)

    def stop_requested(self) -> bool:
        """Looks for the driver's request, at most twice a second."""
        now = time.monotonic()
        if now - self._asked_at >= STOP_POLL_SECONDS:
            self._asked_at, self._stop = now, self._stop_file.exists()
        return self._stop


def _work(loop_config: dict[str, Any]) -> None:
    config: PretrainConfig = loop_config["config"]
    torch.set_num_threads(loop_config["num_threads"])
    with listening(Relay(config.out) if rank() == 0 else Silence()):
        pretrain(config, RayTrainContext(config.out))


class _NotesPlacementGroup(WorkerGroupCallback):
    """Keeps the name of what the workers hold, for a driver that outlives whoever would free it."""

    def __init__(self, out: Path) -> None:
        self._path = out / PLACEMENT_GROUP_FILE

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Called by Ray Train in its controller."""
        handle = worker_group.get_worker_group_state().placement_group_handle
        self._path.write_text(handle.placement_group.id.hex())


class _Trainer(TorchTrainer):
    """Ray's trainer without its placement-group cleaner and its answer to Ctrl-C.

    The cleaner asks whether the controller still lives, but asks whichever Ray it finds first on
    the machine: beside another cluster it removes the workers of a healthy run (Ray 2.60). Ray
    frees what a job held when the job ends, with or without it. The answer to Ctrl-C is an abort
    without a checkpoint; ours is in ``training.engine.stopping``.
    """

    def _register_sigint_handler(self, controller: object) -> None:
        """Ray would replace whatever answers Ctrl-C."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        # mypy sees the trainer of Ray Train V1.
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def launch(config: PretrainConfig, share: Resources | None = None) -> RunResult:
    """Runs or resumes a pretraining on Ray: the one that is running, or a local one.

    After a crash of workers or nodes it starts again, up to ``config.max_failures`` times, on the
    largest number of workers that the cluster still holds and the global batch can be split over.

    Args:
        config: the run; paths absolute and reachable from every node.
        share: of the cluster that the run may take, where others share it; None: all of it.

    Returns:
        How it ended.

    Raises:
        InputError: before anything is written, when something does not fit (``preflight``), or a
            node does not reach shards and output; later, when the run itself finds that it cannot
            go on: that is never tried again.
    """
    if config.num_workers != "auto":
        preflight(config, config.num_workers)
    with counted(), ray_running():
        return _launch(config, share)


def _launch(config: PretrainConfig, share: Resources | None) -> RunResult:
    nodes = [node.resources for node in live_nodes()]
    resources = share or first_resources(config.num_workers, nodes, partial(can_split, config))
    info = preflight(config, resources.num_workers)
    total = total_steps(config, info)
    store = CheckpointStore(config.out / "checkpoints", keep=config.checkpoint.keep)
    done = max(store.steps(), default=0)
    if done == total:
        return RunResult(done, total, latest_values(config.out), ran=False)
    check_nodes(config)
    write_config(config.out, config, info.plan_digest)
    (config.out / STOP_FILE).unlink(missing_ok=True)
    with shown(config.out), asked_to_stop((config.out / STOP_FILE).touch):
        _train(config, resources, most_cpus=share.cpus_per_worker if share else None)
    (config.out / STOP_FILE).unlink(missing_ok=True)
    return RunResult(max(store.steps(), default=0), total, latest_values(config.out))


def _train(config: PretrainConfig, first: Resources, *, most_cpus: int | None) -> None:
    """Trains to the end or a requested stop; starts again after crashes.

    Workers of a later start get no more than ``most_cpus`` each: the others' share stays theirs.
    """
    resources: Resources | None = first
    failures = 0
    while resources is not None:
        try:
            _trainer(config, resources).fit()
            return
        except (TrainingFailedError, RayActorError) as error:
            wrong_input = _wrong_input(error)
            if wrong_input is not None:
                raise wrong_input from error
            if _was_waiting(error):
                reason = f"a wait: others held what {resources.num_workers} workers need"
            else:
                failures += 1
                reason = f"failure {failures} (of at most {config.max_failures})"
                if failures > config.max_failures:
                    raise
        resources = _resources_left(config, first)
        if resources is not None:
            if most_cpus is not None:
                cpus = min(resources.cpus_per_worker, most_cpus)
                resources = replace(resources, cpus_per_worker=cpus)
            on = f"on {resources.num_workers} workers"
            say(config.out, f"{WARNING}training is started again after {reason}, {on}")


def _trainer(config: PretrainConfig, resources: Resources) -> TorchTrainer:
    cpus = resources.cpus_per_worker
    return _Trainer(
        _work,
        train_loop_config={
            "config": config,
            "num_threads": cpus if _in_a_process_of_ray() else threads_beside_others(cores=cpus),
        },
        # Decisions and evaluation results cross ranks on the CPU, gradients on the device.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if resources.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=resources.use_gpu,
            resources_per_worker={
                "CPU": resources.cpus_per_worker,
                **({"GPU": 1} if resources.use_gpu else {}),
            },
        ),
        run_config=RunConfig(
            # The loop resumes from its own checkpoints, whatever Ray remembers of earlier starts.
            name=datetime.now(UTC).strftime("start-%Y%m%d-%H%M%S-%f"),
            storage_path=str(config.out / "ray"),
            callbacks=[_NotesPlacementGroup(config.out)],  # type: ignore[list-item]  # V1's, again
            # Every failure comes here. Ray would try a wrong input again, and its elastic workers
            # may be of a number that does not divide the batch.
            failure_config=FailureConfig(  # type: ignore[call-arg]  # mypy sees that of V1
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )


def _in_a_process_of_ray() -> bool:
    """Whether Ray started this process: then OMP_NUM_THREADS is Ray's, and not the user's."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return submitted or ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def _wrong_input(error: BaseException) -> InputError | None:
    """What a person gave, if that is what made the workers fail."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else []
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, InputError):
                return InputError(str(cause))
            cause = cause.__cause__
    return None


def _was_waiting(error: BaseException) -> bool:
    """Whether the workers only did not get their resources in time: others hold them, say."""
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )


def _resources_left(config: PretrainConfig, first: Resources) -> Resources | None:
    """Workers for the nodes that are left; where these hold none, asks for some and waits.

    Returns:
        None once a stop was asked for.
    """
    deadline = time.monotonic() + RESTART_WAIT_SECONDS
    with workers_asked_for(first):
        while not (config.out / STOP_FILE).exists():
            nodes = [node.resources for node in answering_nodes(config)]
            found = fewer_resources(
                first.num_workers, nodes, partial(can_split, config), use_gpu=first.use_gpu
            )
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise InputError(
                    f"the cluster has held no worker for {RESTART_WAIT_SECONDS:.0f} s: start nodes "
                    "and give the same command, it goes on from the newest checkpoint"
                )
            time.sleep(RESTART_POLL_SECONDS)
    return None
