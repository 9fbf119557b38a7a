"""What methods declare: which views, from which crops, how masked and filled."""

from dataclasses import replace
from typing import Any

import pytest

from tests.training.views.made import settings_of, views_of
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.registry import find_method
from training.methods.settings import HardNegativeConfig, MethodConfig
from training.methods.simclr.settings import SimCLRConfig
from training.randomness.draws import view_group
from training.views.exchange import BackgroundMasker, BackgroundSwap
from training.views.fills import FILLS
from training.views.maskers import PatchMasker, object_hider
from training.views.settings import ViewConfig
from training.views.spec import Crop, ViewSpec, crops_of


def declared(config: MethodConfig, **masks: Any) -> dict[str, ViewSpec]:  # noqa: ANN401
    settings = settings_of("blur", **masks)
    return {view.name: view for view in find_method(config.name).views(config, settings)}


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("head", ["off", "hard", "exchange", "both"])
@pytest.mark.parametrize(
    ("config", "sources"), [(MoCoConfig(), ["key"]), (SimCLRConfig(), ["key", "query"])]
)
def test_methods_with_hard_negatives(
    config: HardNegativeConfig, sources: list[str], head: str, count: int
) -> None:
    changes = {"object_head": head, "hard_negatives": count, "object_exchange_probability": 0.4}
    views = declared(replace(config, **changes))  # type: ignore[arg-type]
    negatives = {
        f"negative-{source}-{index}": source
        for source in sources
        for index in range(0 if head == "exchange" else count)
    }
    copies = ["exchanged"] if head in ("exchange", "both") else []
    assert list(views) == ["query", "key", *negatives, *copies]
    settings = settings_of("blur")
    for name, source in negatives.items():
        masker = object_hider(settings.masks, False)
        crop = Crop(name=source, cut=settings.cut)
        assert views[name] == ViewSpec(name=name, crop=crop, masker=masker, fill=FILLS["blur"])
        assert view_group(views[name].name) == "negative"
    if copies:
        copy = views["exchanged"]
        assert (copy.crop, copy.fill) == (views["query"].crop, BackgroundSwap("query"))
        assert copy.masker == BackgroundMasker(0.4, "query")
        assert view_group(copy.name) == "exchanged"
    assert [crop.name for crop in crops_of(tuple(views.values()))] == ["query", "key"]


@pytest.mark.parametrize("config", [MoCoConfig(hard_negatives=0), SimCLRConfig(), BYOLConfig()])
@pytest.mark.parametrize("branch", ["query", "key", "both"])
def test_the_branch_says_which_views_the_strategy_masks(config: MethodConfig, branch: str) -> None:
    views = declared(config, branch=branch)
    if isinstance(config, BYOLConfig):
        assert list(views) == ["query", "key"]
    for name in ("query", "key"):
        view = views[name]
        masked = branch in (name, "both")
        assert (view.crop.name, view_group(view.name), view.fill) == (name, name, FILLS["blur"])
        assert isinstance(view.masker, PatchMasker) == masked
        assert (view.masker is None) != masked


@pytest.mark.parametrize("strategy", ["none", "balanced", "shuffled", "exchange"])
@pytest.mark.parametrize("exchange", ["swap", "grey"])
def test_what_a_strategy_asks_for(strategy: str, exchange: str) -> None:
    query, _, negative = views_of(settings_of("blur", strategy=strategy, exchange=exchange))
    swaps = (strategy, exchange) == ("exchange", "swap")
    grey = FILLS["mean"] if strategy == "exchange" else FILLS["blur"]
    assert query.fill == (BackgroundSwap("query") if swaps else grey)
    assert negative.fill == FILLS["blur"]
    for view in (query, negative):
        assert view.masker is not None
        assert view.masker.steered_by_next == (strategy == "shuffled")
    assert query.masker is not None
    assert negative.masker is not None
    assert query.masker.masks == (strategy != "none")
    assert (query.masker.noise_std, negative.masker.noise_std) == (0.18, 0.14)


def test_crops_are_named_once_in_order() -> None:
    settings = settings_of()
    small = Crop(name="small", cut=ViewConfig(size=16, grid=2))
    views = (
        settings.key(),
        ViewSpec(name="small-0", crop=small, fill=settings.fill),
        settings.hard_negative("query", 0),
        ViewSpec(name="small-1", crop=small, fill=settings.fill),
        settings.query(),
    )
    assert crops_of(views) == (settings.crop("key"), small, settings.crop("query"))
    groups = [view_group(view.name) for view in views]
    assert groups == ["key", "small", "negative", "small", "query"]
