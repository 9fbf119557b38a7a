"""Nodes that are asked for, and waited for."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.config.resources import Resources
from training.ray import launch, waiting
from training.ray.nodes import LiveNode
from training.ray.waiting import asked_for, wait_for, workers_asked_for


def noted() -> list[dict[str, float]]:
    """What an autoscaler would read."""
    text = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    bundles: list[dict[str, float]] = json.loads(text) if text else []
    return bundles


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> Iterator[None]:
    """As in a job of a cluster: there is an address."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # the Ray that runs already is used
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    yield
    assert noted() == []


def test_what_is_asked_for_is_noted_for_as_long_as_it_is_wanted(told: None) -> None:
    with asked_for(2, {"GPU": 1}):
        assert noted() == [{"GPU": 1}, {"GPU": 1}]
    with workers_asked_for(Resources(2, 8, True)):
        assert noted() == [{"CPU": 8, "GPU": 1}] * 2
    with workers_asked_for(Resources(1, 3, False)):
        assert noted() == [{"CPU": 3}]


def test_nodes_that_are_there_are_not_waited_for(told: None) -> None:
    wait_for("CPU", 2, seconds=0)


def test_nodes_are_waited_for_until_they_come(told: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[dict[str, float]]] = []

    def one_more() -> list[LiveNode]:
        seen.append(noted())
        return [LiveNode("node", str(n), {"CPU": 8.0, "GPU": 1.0}) for n in range(len(seen))]

    monkeypatch.setattr(waiting, "live_nodes", one_more)
    wait_for("GPU", 3, seconds=60)
    assert seen == [[{"GPU": 1}] * 3] * 3


def test_the_numbers_are_said_when_the_time_is_up(told: None) -> None:
    with pytest.raises(InputError, match=r"after 0 min the cluster has 2 of 99 CPUs: `ray status`"):
        wait_for("CPU", 99, seconds=0)


def test_without_a_cluster_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=r"no cluster to wait for: .*ray job submit"):
        wait_for("GPU", 1, seconds=60)


def test_a_run_that_has_lost_its_nodes_asks_for_new_ones(
    told: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = [[], [LiveNode("new", "1", {"CPU": 4.0, "GPU": 1.0})]]
    asked: list[list[dict[str, float]]] = []

    def answering(_: PretrainConfig) -> list[LiveNode]:
        asked.append(noted())
        return answers[len(asked) - 1]

    monkeypatch.setattr(launch, "answering_nodes", answering)
    monkeypatch.setattr(launch, "RESTART_POLL_SECONDS", 0.0)
    config = PretrainConfig(shards=tmp_path / "shards", out=tmp_path / "out", batch_size=64)
    left = partial(launch._resources_left, config, Resources(2, 8, True))
    assert left() == Resources(1, 4, True)
    assert asked == [[{"CPU": 8, "GPU": 1}] * 2] * 2
