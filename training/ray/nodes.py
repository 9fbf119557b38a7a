"""The nodes of a Ray cluster: which are alive, which reach a run's folders, waiting for more."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.errors import InputError
from pipeline.precompute.ray_session import ray_running
from training.config.pretrain import PretrainConfig
from training.config.resources import Node
from training.ray.reach import digests_of, look, token_in

_look = ray.remote(num_cpus=0, max_retries=0)(look)
ANSWER_SECONDS = 120.0
"""How long a node may take to start a process and look around."""
POLL_SECONDS = 5.0


@dataclass(frozen=True)
class LiveNode:
    """A node that Ray believes to be alive, with all its resources, in use or not."""

    name: str
    identity: str
    resources: Node


def live_nodes() -> list[LiveNode]:
    """The nodes that Ray believes to be alive: one that has just died may be among them."""
    return [
        LiveNode(
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})",
            node["NodeID"],
            node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_nodes(config: PretrainConfig) -> None:
    """Checks that every live node answers, and reaches the run's shards and folder.

    Raises:
        InputError: names the node and what it does not reach.
    """
    nodes = live_nodes()
    answering = {node.identity for node in answering_nodes(config)}
    for node in nodes:
        if node.identity not in answering:
            raise InputError(
                f"node {node.name} did not answer within {ANSWER_SECONDS:.0f} s: is it still "
                "there (ray status), and can it import this program?"
            )


def answering_nodes(config: PretrainConfig) -> list[LiveNode]:
    """The nodes that answer, and reach the run's shards and folder.

    Raises:
        InputError: a node answers that it does not; names it and what.
    """
    here = ray.get_runtime_context().get_node_id()  # the preflight has checked this node
    nodes, knn = live_nodes(), config.knn
    labelled = (knn.val_shards, knn.train_shards) if knn.val_shards is not None else ()
    digests = digests_of([config.shards, *(root for root in labelled if root is not None)])
    found = [node for node in nodes if node.identity == here]
    with token_in(config.out) as token:
        tasks = {}
        for node in nodes:
            if node.identity != here:
                on_node = NodeAffinitySchedulingStrategy(node.identity, soft=False)
                remote = _look.options(scheduling_strategy=on_node)
                tasks[remote.remote(token, node.identity, digests)] = node
        done, late = ray.wait([*tasks], num_returns=max(1, len(tasks)), timeout=ANSWER_SECONDS)
        for task in late:
            ray.cancel(task, force=True)
        for task in done:
            node = tasks[task]
            try:
                wrong = ray.get(task)
            except RayError:  # it died in the meantime
                continue
            if wrong is not None:
                raise InputError(
                    f"node {node.name} does not reach what the run needs: {wrong}; every node "
                    "must see the same shards and the same --out under the same paths"
                )
            found.append(node)
    return found


@contextmanager
def asked_for(count: int, each: Mapping[str, float]) -> Iterator[None]:
    """While the block runs, the cluster's autoscaler is asked to hold so many bundles at least.

    An autoscaler adds nodes for what Ray cannot place, and a run places only what the nodes hold.
    Ray keeps one such request for the whole cluster, the latest.
    """
    request_resources(bundles=[dict(each)] * count)
    try:
        yield
    finally:
        request_resources(bundles=[])


def wait_for(resource: str, count: int, seconds: float) -> None:
    """Waits until the live nodes hold so many of a resource (``GPU`` or ``CPU``), and asks for it.

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
        while (found := int(sum(n.resources.get(resource, 0) for n in live_nodes()))) < count:
            if time.monotonic() > deadline:
                raise InputError(
                    f"after {seconds / 60:g} min the cluster has {found} of {count} "
                    f"{resource}s: `ray status` says what it waits for (node types and their "
                    "max_workers in the cluster's YAML file, quotas of the cloud)"
                )
            time.sleep(POLL_SECONDS)
