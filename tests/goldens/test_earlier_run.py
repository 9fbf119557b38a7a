"""What an earlier version wrote is read, gone on with and used by this one, with equal results."""

import shutil
from pathlib import Path

import pytest

from pipeline.precompute.verify import verify_set
from tests.goldens.earlier_run import (
    BACKBONE,
    EARLIER,
    SHARDS,
    STEPS,
    STOPPED,
    STOPPED_AFTER,
    earlier_config,
    features,
    losses,
    measured,
)
from tests.runs import run

TOLERANCE = 1e-4
"""Relative, as for the goldens' losses: the order of float32 sums follows the processor."""


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the earlier version's files, which is also the working directory."""
    copy = tmp_path / "earlier"
    shutil.copytree(EARLIER, copy)
    monkeypatch.chdir(copy)
    return copy


def test_the_shards_are_whole(earlier: Path) -> None:
    assert verify_set(earlier / SHARDS) == []


def test_the_run_goes_on_to_the_same_losses(earlier: Path) -> None:
    before = losses(STOPPED)
    assert len(before) == STOPPED_AFTER
    assert run(earlier_config(STOPPED)).finished
    after = losses(STOPPED)
    assert after[:STOPPED_AFTER] == before
    assert len(after) == STEPS
    assert after == pytest.approx(measured()["losses"], rel=TOLERANCE)


def test_the_backbone_computes_the_same_features(earlier: Path) -> None:
    for found, expected in zip(features(earlier / BACKBONE), measured()["features"], strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-5)
