"""The nodes of a Ray cluster: which are there, and whether each reaches a run's folders."""

from dataclasses import dataclass

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.config.resources import Node
from training.ray.reach import has_answered, look, places, token_in

Answer = ray.ObjectRef[str | None]
_look = ray.remote(num_cpus=0, max_retries=0)(look)
ANSWER_SECONDS = 120.0
"""How long a node may take to start a process and look around."""


@dataclass(frozen=True)
class LiveNode:
    """A node that Ray believes to be alive.

    Attributes:
        name: its address and the beginning of its identity.
        identity: Ray's.
        resources: all that it has, in use or not.
    """

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
    """The nodes that are alive indeed, and reach the run's shards and folder.

    Raises:
        InputError: a node answers that it does not; names it and what.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes, knn = live_nodes(), config.knn
    labelled = (knn.val_shards, knn.train_shards) if knn.val_shards is not None else ()
    wanted = places(config.out, [config.shards, *(root for root in labelled if root is not None)])
    # What the driver's own node reaches, the preflight has seen.
    others = {node.identity: node for node in nodes if node.identity != here}
    with token_in(config.out) as token:
        tasks = {
            _look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(identity, soft=False)
            ).remote(wanted, token, identity): identity
            for identity in others
        }
        done, late = _wait(list(tasks))
        for task in late:
            ray.cancel(task, force=True)
        silent = {tasks[task] for task in late}
        for task in done:
            node = others[tasks[task]]
            try:
                wrong = ray.get(task)
            except RayError:  # it died in the meantime
                silent.add(node.identity)
                continue
            if wrong is None and not has_answered(wanted, token, node.identity):
                wrong = f"{wanted.out} is not the folder there that it is here"
            if wrong is not None:
                raise InputError(
                    f"node {node.name} does not reach what the run needs: {wrong}; every node "
                    "must see the same shards and the same --out under the same paths"
                )
    return [node for node in nodes if node.identity not in silent]


def _wait(tasks: list[Answer]) -> tuple[list[Answer], list[Answer]]:
    """Those that ended in time, and those that did not."""
    if not tasks:
        return [], []
    done, late = ray.wait(tasks, num_returns=len(tasks), timeout=ANSWER_SECONDS)
    return done, late
