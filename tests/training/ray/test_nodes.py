"""Nodes that are asked for and waited for, and whether a node reaches a run's folders."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from pipeline.core.errors import InputError
from pipeline.storage.storage import Location
from tests.screens import seen_in_terminal, whole_lines
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.resources import Resources
from training.ray import launch, nodes
from training.ray.nodes import LiveNode, asked_for, digests_of, look, token_in, wait_for

NODE = "node-1"


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run, which is not there yet; the node is this process."""
    monkeypatch.setattr("training.ray.nodes.SETTLE_SECONDS", 0.0)
    write_shard_set(tmp_path / "shards", num_images=16, shard_images=8)
    return tmp_path / "runs" / "out"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_node_that_reaches_everything_leaves_no_trace(
    out: Path, tmp_path: Path, is_there: bool
) -> None:
    if is_there:
        out.mkdir(parents=True)
        (out / "config.json").write_text("{}")
    with token_in(out) as token:
        assert look(token, NODE, digests_of([tmp_path / "shards"])) is None
    left = [path.name for path in out.parent.rglob("*")]
    assert left == (["out", "config.json"] if is_there else [])
    assert out.parent.exists() == is_there


def test_what_is_missing_or_different_on_a_node_is_named(out: Path, tmp_path: Path) -> None:
    shards, images = tmp_path / "shards", tmp_path / "images"
    write_shard_set(tmp_path / "others", num_images=8)
    images.mkdir()
    wanted = digests_of([shards, images])
    with token_in(out) as token:
        assert look(token, NODE, wanted) is None
        assert "is not the folder there" in str(look(tmp_path / "x" / token.name, NODE, wanted))
        others: dict[Location, str] = {tmp_path / "others": wanted[shards]}
        assert "others holds another shard set there than" in str(look(token, NODE, others))
        assert "no shards at" in str(look(token, NODE, {tmp_path / "nowhere": "digest"}))
        images.rmdir()
        assert str(look(token, NODE, wanted)).startswith("there is no ")
        next(shards.rglob("*.tar")).unlink()
        assert "is missing" in str(look(token, NODE, wanted))
        assert "cannot be written to there" in str(look(token, "n" * 300, {}))
    out.parent.mkdir()
    out.write_text("a file where the folder would be: not even root writes into it")
    with pytest.raises(InputError, match="cannot be written"):
        token_in(out).__enter__()


def noted() -> list[dict[str, float]]:
    """What an autoscaler would read."""
    text = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    bundles: list[dict[str, float]] = json.loads(text) if text else []
    return bundles


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> Iterator[None]:
    """As in a job of a cluster: there is an address."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # the Ray that runs already is used
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.01)
    yield
    assert noted() == []


def test_nodes_are_asked_for_and_waited_for_until_they_come(
    told: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked_for(2, {"GPU": 1}):
        assert noted() == [{"GPU": 1}, {"GPU": 1}]
    wait_for("CPU", 2, seconds=0)  # they are there
    with pytest.raises(InputError, match=r"after 0 min the cluster has 2 of 99 CPUs: `ray status`"):
        wait_for("CPU", 99, seconds=0)
    seen: list[list[dict[str, float]]] = []

    def one_more() -> list[LiveNode]:
        seen.append(noted())
        return [LiveNode("node", str(n), {"CPU": 8.0, "GPU": 1.0}) for n in range(len(seen))]

    monkeypatch.setattr(nodes, "live_nodes", one_more)
    wait_for("GPU", 3, seconds=60)
    assert seen == [[{"GPU": 1}] * 3] * 3
    seen.clear()
    code, screen = seen_in_terminal("cluster", ["wait", "--gpus", "3"], monkeypatch)
    assert (code, whole_lines(screen)[-2]) == (0, "the cluster has 3 GPUs"), screen
    assert re.findall(r"waiting for nodes: .*?\| (\d)/3 \[", screen)[-1] == "3", screen


def test_without_a_cluster_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=r"no cluster to wait for: .*ray job submit"):
        wait_for("GPU", 1, seconds=60)


@pytest.mark.parametrize(
    ("first", "each"),
    [(Resources(2, 8, True), {"CPU": 8, "GPU": 1}), (Resources(2, 3, False), {"CPU": 3})],
)
def test_a_run_that_has_lost_its_nodes_asks_for_new_ones(
    told: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    first: Resources,
    each: dict[str, float],
) -> None:
    answers = [[], [LiveNode("new", "1", {"CPU": 4.0, "GPU": 1.0})]]
    asked: list[list[dict[str, float]]] = []

    def answering(_: PretrainConfig) -> list[LiveNode]:
        asked.append(noted())
        return answers[len(asked) - 1]

    monkeypatch.setattr(launch, "answering_nodes", answering)
    monkeypatch.setattr(launch, "RESTART_POLL_SECONDS", 0.0)
    config = PretrainConfig(shards=tmp_path / "shards", out=tmp_path / "out", batch_size=64)
    expected = Resources(1, 4, True) if first.use_gpu else Resources(2, 2, False)
    assert launch._resources_left(config, first) == expected
    assert asked == [[each] * 2] * 2
