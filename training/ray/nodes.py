"""The nodes of a Ray cluster: which are alive, which reach a run's folders, waiting for more.

The driver writes a token, a small file, into the run's folder, and every node looks for it.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.errors import InputError, JobError, write_error
from pipeline.core.progress import Standing, show
from pipeline.precompute.ray_session import ray_running
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.schema import DATASET_FILE
from pipeline.storage.atomic import TEMPORARY_SUFFIX
from pipeline.storage.storage import Location, open_store
from training.config.pretrain import PretrainConfig
from training.config.resources import Node

ANSWER_SECONDS = 120.0
"""How long a node may take to start a process and look around."""
SETTLE_SECONDS = 5.0
"""How long a network file system may take to show a new file on another node."""
POLL_SECONDS = 5.0


class LiveNode(NamedTuple):
    """A node that Ray believes to be alive, with all its resources, in use or not."""

    name: str
    identity: str
    resources: Node


def live_nodes() -> list[LiveNode]:
    """The nodes that Ray believes to be alive: one that has just died may be among them."""
    return [
        LiveNode(f"{node['NodeManagerAddress']} ({identity[:8]})", identity, node["Resources"])
        for node in ray.nodes()
        if node["Alive"] and (identity := node["NodeID"])
    ]


def check_nodes(config: PretrainConfig) -> None:
    """Checks that every live node answers, and reaches the run's shards and folder.

    Raises:
        InputError: names the node and what it does not reach.
    """
    nodes, answering = live_nodes(), answering_nodes(config)
    for node in nodes:
        if node.identity not in {answer.identity for answer in answering}:
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
    roots = (config.shards, config.selection, *config.replay.shards, *labelled)
    digests = digests_of([root for root in roots if root is not None])
    found = [node for node in nodes if node.identity == here]
    with token_in(config.out) as token:
        tasks = {}
        for node in nodes:
            if node.identity != here:
                on_node = NodeAffinitySchedulingStrategy(node.identity, soft=False)
                remote = _look.options(scheduling_strategy=on_node)
                tasks[remote.remote(None if config.bucket else token, node.identity, digests)] = (
                    node
                )
        done, late = ray.wait([*tasks], num_returns=max(1, len(tasks)), timeout=ANSWER_SECONDS)
        for task in late:
            ray.cancel(task, force=True)
        for task in done:
            with suppress(RayError):  # it died in the meantime
                if (wrong := ray.get(task)) is not None:
                    raise InputError(
                        f"node {tasks[task].name} does not reach what the run needs: {wrong}; "
                        "every node must see the same shards and the same --out under the same "
                        "paths"
                    )
                found.append(tasks[task])
    return found


def digests_of(roots: Sequence[Location]) -> dict[Location, str]:
    """The digest of each shard set's ``dataset.json``; of a folder of images, an empty one."""
    return {root: _digest(root) for root in roots}


def _digest(root: Location) -> str:
    try:
        return hashlib.sha256(open_store(root).read(DATASET_FILE)).hexdigest()
    except FileNotFoundError:
        return ""


@contextmanager
def token_in(out: Path) -> Iterator[Path]:
    """A token in the run's folder while the block runs; leaves no trace.

    Raises:
        InputError: the folder cannot be written to.
    """
    token = out / f".reach-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        token.write_text("")
    except OSError as error:
        raise write_error(str(out), error) from error
    try:
        yield token
    finally:
        for path in out.glob(f"{token.stem}*"):
            path.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # not empty: something else is there by now
                folder.rmdir()


def look(token: Path | None, node: str, digests: Mapping[Location, str]) -> str | None:
    """Called on a node: returns what it does not reach of a token's folder and shards, or None."""
    for root, digest in digests.items():
        try:
            if not digest and not open_store(root).is_there():
                return f"there is no {root} there"
            if digest:
                check_shards(root, load_dataset_info(root))
                if _digest(root) != digest:
                    return f"{root} holds another shard set there than here"
        except JobError as error:
            return str(error)
    if token is None:
        return None
    deadline = time.monotonic() + SETTLE_SECONDS
    while not token.exists():
        if time.monotonic() > deadline:
            return f"{token.parent} is not the folder there that it is here"
        time.sleep(0.1)
    try:
        token.with_stem(f"{token.stem}-{node}").write_text("")
    except OSError as error:
        return f"{token.parent} cannot be written to there ({error.strerror or error})"
    return None


_look = ray.remote(num_cpus=0, max_retries=0)(look)


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
        while True:
            found = int(sum(node.resources.get(resource, 0) for node in live_nodes()))
            done, unit = min(found, count), f"{resource}s"
            show(Standing(work="waiting for nodes", done=done, total=count, unit=unit))
            if found >= count:
                return
            if time.monotonic() > deadline:
                raise InputError(
                    f"after {seconds / 60:g} min the cluster has {found} of {count} "
                    f"{resource}s: `ray status` says what it waits for (node types and their "
                    "max_workers in the cluster's YAML file, quotas of the cloud)"
                )
            time.sleep(POLL_SECONDS)
