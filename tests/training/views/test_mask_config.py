"""Settings of the masks: ranges, names, and what follows from them."""

import pytest

from pipeline.core.errors import InputError
from training.views.settings import AttMaskConfig, MaskConfig
from training.views.strategies import MASK_STRATEGIES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "hint"}, "unknown mask strategy 'hint'"),
        ({"branch": "left"}, "unknown branch 'left': choose from query, key, both"),
        ({"behaviour": "buggy"}, "unknown behaviour 'buggy': choose from paper, released"),
        ({"query_ratio": (0.3, 0.2)}, "query_ratio is 0.3 to 0.2"),
        ({"query_ratio": (-0.1, 0.2)}, "query_ratio"),
        ({"negative_ratio": (0.4, 1.2)}, "negative_ratio"),
        ({"negative_ratio": (float("nan"), 0.5)}, "negative_ratio"),
        ({"foreground_threshold": float("nan")}, "foreground_threshold"),
        ({"foreground": "mean"}, "unknown foreground rule 'mean': choose from std, otsu"),
        ({"count": "exact"}, "unknown masks.count 'exact': choose from paper, matched"),
        ({"exchange": "blur"}, "unknown masks.exchange 'blur': choose from swap, grey"),
        ({"negative_patches": "sky"}, "unknown masks.negative_patches 'sky'"),
        ({"probability": 1.5}, r"masks\.probability 1\.5 must be in"),
        ({"strategy": "exchange", "branch": "both"}, "masks.branch both must be query"),
    ],
)
def test_a_config_out_of_range_names_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": (0.5, 0.1)}, r"masks\.attmask\.ratio"),
        ({"show": -0.1}, r"masks\.attmask\.show -0\.1"),
    ],
)
def test_attmask_out_of_range_names_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AttMaskConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
def test_every_strategy_has_its_ratio_and_probability(strategy: str) -> None:
    config = MaskConfig(strategy=strategy)
    by_order = strategy.startswith("attmask")
    assert config.ratio == ((0.1, 0.5) if by_order else (0.05, 0.25))
    assert config.negative_ratio == (0.4, 0.7)
    assert config.masked_share == (0.5 if by_order else 0.3 if strategy == "exchange" else 1.0)
    assert MaskConfig(strategy=strategy, probability=0.25).masked_share == 0.25
