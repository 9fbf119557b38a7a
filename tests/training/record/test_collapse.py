"""A collapse is told from a run's figures, and told once."""

from typing import Any

import pytest

from pipeline.errors import InputError
from training.record.collapse import CollapseConfig, CollapseWatch, collapse_signs

CONFIG = CollapseConfig(min_spread=0.1, after_steps=50, knn_margin=3.0)


@pytest.mark.parametrize(
    ("figures", "signs"),
    [
        ({"spread": 0.5}, []),
        ({"spread": 0.1}, []),
        ({"spread": 0.09}, ["next to no spread (0.09, below 0.1)"]),
        ({"spread": 0.0, "step": 50}, []),
        ({"knn": 32.3, "untrained_knn": 35.3}, []),
        ({"knn": 32.2, "untrained_knn": 35.3}, ["kNN is 32.20 %, more than 3 points below"]),
        ({"knn": 0.0}, []),
        ({"spread": 0.01, "knn": 10.0, "untrained_knn": 35.3}, ["spread", "kNN is 10.00 %"]),
        ({}, []),
    ],
)
def test_signs(figures: dict[str, Any], signs: list[str]) -> None:
    found = collapse_signs(config=CONFIG, **{"step": 51, **figures})
    assert len(found) == len(signs)
    for line, part in zip(found, signs, strict=True):
        assert part in line


def test_a_warning_comes_when_a_figure_goes_wrong_and_not_again() -> None:
    watch = CollapseWatch(CONFIG)
    assert watch.look(0, knn=35.0) is None
    assert watch.look(100, spread=0.5) is None
    first = watch.look(200, spread=0.01)
    assert first is not None
    assert "collapsed at step 200" in first
    assert watch.look(300, spread=0.01) is None
    assert watch.look(300, knn=34.0) is None
    second = watch.look(400, knn=20.0)
    assert second is not None
    assert "35.00 % of the untrained network" in second
    assert watch.look(500, spread=0.9) is None
    assert watch.look(600, spread=0.01) is not None, "it had recovered in between"


def test_a_resumed_run_remembers() -> None:
    watch, resumed = CollapseWatch(CONFIG), CollapseWatch(CONFIG)
    watch.look(0, knn=35.0)
    watch.look(100, spread=0.01)
    resumed.load_state_dict(watch.state_dict())
    assert resumed.look(200, spread=0.01) is None
    assert resumed.look(200, knn=20.0) is not None


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"min_spread": 1.0}, r"collapse\.min_spread 1"),
        ({"min_spread": -0.1}, r"collapse\.min_spread"),
        ({"after_steps": -1}, r"collapse\.after_steps"),
        ({"knn_margin": -1.0}, r"collapse\.knn_margin"),
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        CollapseConfig(**wrong)
