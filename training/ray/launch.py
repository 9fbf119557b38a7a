"""Run the training loop on Ray Train: restarts after crashes, and stops with a checkpoint."""

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from pipeline.core import progress
from pipeline.core.errors import InputError
from pipeline.core.progress import WARNING
from pipeline.precompute.ray_session import ray_running
from pipeline.storage.alone import alone_in
from training.config.file import write_config
from training.config.pretrain import PretrainConfig
from training.config.resources import Resources, fewer_resources, first_resources
from training.engine.extend import begin_extension
from training.engine.preflight import can_split, preflight, total_steps
from training.engine.result import RunResult, recorded_result
from training.engine.stopping import asked_to_stop
from training.ray.context import pretrain_on_worker
from training.ray.nodes import answering_nodes, asked_for, check_nodes, live_nodes
from training.ray.workers import FAILURES, job_error, make_trainer, was_waiting
from training.record.mirror import STOP_FILE, working_folder
from training.record.relay import Relay, shown

RESTART_WAIT_SECONDS, RESTART_POLL_SECONDS = 600.0, 5.0
"""How long a run waits for nodes where the ones that are left hold no worker."""


def launch(
    config: PretrainConfig, share: Resources | None = None, *, threads: int | None = None
) -> RunResult:
    """Runs or resumes a pretraining on Ray: the one that is running, or a local one.

    After a crash of workers or nodes it starts again, up to ``config.max_failures`` times, on the
    largest number of workers that the cluster still holds and the global batch can be split over.
    Its paths are absolute, and every node reaches them. `share` is what it may take of the cluster;
    None: all of it. `threads` are those of each worker (`make_trainer`).

    Raises:
        InputError: before anything is written, when something does not fit (``preflight``), a node
            does not reach shards and output, or another process trains there.
        JobError: the run itself cannot go on; that is never tried again.
    """
    with ExitStack() as stack:
        config, mirror = stack.enter_context(working_folder(config, states=False))
        if config.num_workers != "auto":
            preflight(config, config.num_workers)  # before Ray, which takes seconds to start
        stack.enter_context(ray_running())
        nodes = [node.resources for node in live_nodes()]
        resources = share or first_resources(config.num_workers, nodes, partial(can_split, config))
        info = preflight(config, resources.num_workers)
        total = total_steps(config, info)
        before = recorded_result(config, total, ran=False)
        if before.finished:
            return before
        check_nodes(config)
        stack.enter_context(alone_in(config.out))
        write_config(config.out, config, info.plan_digest)
        begin_extension(config)
        if mirror is not None:
            mirror.push()
            mirror.store.remove(STOP_FILE)
        stop_file = config.out / STOP_FILE
        stop_file.unlink(missing_ok=True)
        exchange = None if mirror is None else mirror.exchange
        with shown(config.out, exchange), asked_to_stop(stop_file.touch):
            most_cpus = share.cpus_per_worker if share else None
            _train(config, resources, most_cpus=most_cpus, threads=threads)
        stop_file.unlink(missing_ok=True)
        if mirror is not None:
            mirror.pull(states=False)
        return recorded_result(config, total, ran=True)


def _train(
    config: PretrainConfig, first: Resources, *, most_cpus: int | None, threads: int | None
) -> None:
    """Trains to the end or a requested stop; starts again after crashes.

    Workers of a later start get no more than ``most_cpus`` each: the rest is of other runs.
    """
    resources, failures = first, 0
    while True:
        try:
            make_trainer(pretrain_on_worker, config, resources, config.out, threads=threads).fit()
            return
        except FAILURES as error:
            if (known := job_error(error)) is not None:
                raise known from error
            reason = f"a wait: others held what {resources.num_workers} workers need"
            if not was_waiting(error):
                failures += 1
                reason = f"failure {failures} (of at most {config.max_failures})"
                if failures > config.max_failures:
                    raise
        left = _resources_left(config, first)
        if left is None:
            return
        cpus = min(left.cpus_per_worker, most_cpus or left.cpus_per_worker)
        resources = replace(left, cpus_per_worker=cpus)
        again = f"training is started again after {reason}, on {resources.num_workers} workers"
        (Relay(config.out) if config.bucket is None else progress).say(f"{WARNING}{again}")


def _resources_left(config: PretrainConfig, first: Resources) -> Resources | None:
    """Workers for the nodes that are left, once they hold any; None once a stop is asked for."""
    each = {"CPU": first.cpus_per_worker, **({"GPU": 1} if first.use_gpu else {})}
    deadline, fits = time.monotonic() + RESTART_WAIT_SECONDS, partial(can_split, config)
    with asked_for(first.num_workers, each):
        while not (config.out / STOP_FILE).exists():
            nodes = [node.resources for node in answering_nodes(config)]
            found = fewer_resources(first.num_workers, nodes, fits, use_gpu=first.use_gpu)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise InputError(
                    f"the cluster has held no worker for {RESTART_WAIT_SECONDS:.0f} s: start nodes "
                    "and give the same command, it goes on from the newest checkpoint"
                )
            time.sleep(RESTART_POLL_SECONDS)
    return None
