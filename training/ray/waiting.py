"""Waiting for nodes: those that an autoscaler is to bring, and those that are on their way."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from ray.autoscaler.sdk import request_resources

from pipeline.core.errors import InputError
from pipeline.precompute.ray_session import ray_running
from training.config.resources import Resources
from training.ray.nodes import live_nodes

POLL_SECONDS = 5.0


@contextmanager
def asked_for(count: int, each: Mapping[str, float]) -> Iterator[None]:
    """While the block runs, the cluster's autoscaler is asked to hold this much at least.

    An autoscaler brings nodes for what Ray cannot place. A run counts the nodes first and places
    nothing that they do not hold, so it has to ask. Ray keeps one such request for the whole
    cluster, the latest; without an autoscaler nobody reads it.

    Args:
        count: bundles, each of which fits a node.
        each: resources of a bundle.
    """
    request_resources(bundles=[dict(each)] * count)
    try:
        yield
    finally:
        request_resources(bundles=[])


def workers_asked_for(workers: Resources) -> AbstractContextManager[None]:
    """``asked_for`` what a run's workers need."""
    each: dict[str, float] = {"CPU": workers.cpus_per_worker}
    if workers.use_gpu:
        each["GPU"] = 1
    return asked_for(workers.num_workers, each)


def wait_for(resource: str, count: int, seconds: float) -> None:
    """Waits until the live nodes of the cluster hold this much, and asks for it meanwhile.

    Args:
        resource: ``GPU`` or ``CPU``.
        count: how many.
        seconds: how long to wait.

    Raises:
        InputError: there is no cluster, or it has fewer when the time is up.
    """
    if not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            "there is no cluster to wait for: send this with `ray job submit --`, or set "
            "RAY_ADDRESS"
        )
    deadline = time.monotonic() + seconds
    with ray_running(), asked_for(count, {resource: 1}):
        while (found := _held(resource)) < count:
            if time.monotonic() > deadline:
                raise InputError(
                    f"after {seconds / 60:g} min the cluster has {found} of {count} "
                    f"{resource}s: `ray status` says what it waits for (node types and their "
                    "max_workers in the cluster's YAML file, quotas of the cloud)"
                )
            time.sleep(POLL_SECONDS)


def _held(resource: str) -> int:
    return int(sum(node.resources.get(resource, 0) for node in live_nodes()))
