"""Ray Train around the loop: workers, process group, restarts, and a gentle stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from pipeline.errors import InputError
from pipeline.ray_session import ray_running
from training.checkpoint import CheckpointStore
from training.config import PretrainConfig, write_config
from training.loop import RunResult, pretrain
from training.metrics import latest_values
from training.preflight import preflight
from training.progress import say, shown

STOP_FILE = "stop-requested"
STOP_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Resources:
    """What each of the workers gets."""

    num_workers: int
    cpus_per_worker: int
    use_gpu: bool


def plan_resources(num_workers: int | None, nodes: list[dict[str, float]]) -> Resources:
    """Chooses workers and the cores of each.

    Args:
        num_workers: wished for; None: one per GPU, or one where there is no GPU.
        nodes: resources of every live node, as Ray counts them.

    Raises:
        InputError: when the cluster cannot hold that many workers.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    workers = num_workers or max(1, gpus)
    use_gpu = gpus > 0
    if use_gpu and workers > gpus:
        raise InputError(f"{workers} workers were asked for, the cluster has {gpus} GPUs")
    cores = [int(node.get("CPU", 0)) for node in nodes]
    for share in range(max(cores, default=0), 0, -1):
        if sum(node // share for node in cores) >= workers:
            return Resources(workers, share, use_gpu)
    raise InputError(
        f"{workers} workers were asked for, the cluster has {sum(cores)} CPUs: "
        "lower --num-workers or start more nodes"
    )


class RayTrainContext:
    """The loop's view of a Ray Train worker."""

    def __init__(self, out: Path) -> None:
        self.device: torch.device = get_device()
        self._out = out
        self._stop_file = out / STOP_FILE
        self._asked_at, self._stop = 0.0, False

    def report(self, values: dict[str, float]) -> None:
        """Hands the values to Ray Train."""
        ray.train.report(values)

    def say(self, line: str) -> None:
        """Shows the line at the driver (``progress.shown``)."""
        say(self._out, line)

    def stop_requested(self) -> bool:
        """Looks for the driver's request, at most twice a second."""
        now = time.monotonic()
        if now - self._asked_at >= STOP_POLL_SECONDS:
            self._asked_at, self._stop = now, self._stop_file.exists()
        return self._stop


def _work(loop_config: dict[str, Any]) -> None:
    config: PretrainConfig = loop_config["config"]
    pretrain(config, RayTrainContext(config.out))


class _Trainer(TorchTrainer):
    """Ray's trainer without its placement-group cleaner.

    The cleaner asks whether the controller still lives, but asks whichever Ray it finds first on
    the machine: beside another cluster it removes the workers of a healthy run (Ray 2.60). Ray
    frees what a job held when the job ends, with or without it.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        # mypy sees the trainer of Ray Train V1.
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def launch(config: PretrainConfig) -> RunResult:
    """Runs or resumes a pretraining on Ray: the one that is running, or a local one.

    Args:
        config: the run; paths absolute and reachable from every node.

    Returns:
        How it ended.

    Raises:
        InputError: before anything is written, when something does not fit (``preflight``).
    """
    if config.num_workers is not None:
        preflight(config, config.num_workers)
    with ray_running():
        return _launch(config)


def _launch(config: PretrainConfig) -> RunResult:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    resources = plan_resources(config.num_workers, nodes)
    info = preflight(config, resources.num_workers)

    total_steps = config.epochs * (info.num_images // config.batch_size)
    store = CheckpointStore(config.out / "checkpoints", keep=config.checkpoint.keep)
    done = max(store.steps(), default=0)
    if done == total_steps:
        return RunResult(done, total_steps, latest_values(config.out), ran=False)
    write_config(config.out, config, info.plan_digest)
    (config.out / STOP_FILE).unlink(missing_ok=True)
    trainer = _Trainer(
        _work,
        train_loop_config={"config": config},
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
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    with shown(config.out), _stop_on_sigterm(config.out / STOP_FILE):
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
    (config.out / STOP_FILE).unlink(missing_ok=True)
    return RunResult(max(store.steps(), default=0), total_steps, latest_values(config.out))


def _cause(error: TrainingFailedError) -> Exception:
    """What a person gave, if that is what made the workers fail; else the error itself."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else []
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, InputError):
                return InputError(str(cause))
            cause = cause.__cause__
    return error


@contextmanager
def _stop_on_sigterm(stop_file: Path) -> Iterator[None]:
    """While the block runs, SIGTERM asks the workers to write a checkpoint and end."""

    def request(_number: int, _frame: FrameType | None) -> None:
        stop_file.touch()

    before = signal.signal(signal.SIGTERM, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
