"""Settings of views: ranges, names, and what follows from them."""

from typing import Any

import pytest

from pipeline.core.errors import InputError
from training.views.maskers import strategy_masker
from training.views.patches import MASK_STRATEGIES
from training.views.settings import (
    AttMaskConfig,
    AugmentConfig,
    LearnedConfig,
    MaskConfig,
    ViewConfig,
)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (MaskConfig, {"strategy": "hint"}, "mask strategy 'hint': choose from none, random, bal"),
        (MaskConfig, {"branch": "left"}, "unknown masks.branch 'left': choose from query, key, bo"),
        (MaskConfig, {"behaviour": "buggy"}, "unknown masks.behaviour 'buggy': choose from paper"),
        (MaskConfig, {"query_ratio": (0.3, 0.2)}, "query_ratio is 0.3 to 0.2"),
        (MaskConfig, {"query_ratio": (-0.1, 0.2)}, "query_ratio"),
        (MaskConfig, {"negative_ratio": (0.4, 1.2)}, "negative_ratio"),
        (MaskConfig, {"negative_ratio": (float("nan"), 0.5)}, "negative_ratio"),
        (MaskConfig, {"foreground_threshold": float("nan")}, "foreground_threshold"),
        (MaskConfig, {"foreground": "mean"}, "unknown foreground rule 'mean': choose from std, ot"),
        (MaskConfig, {"count": "exact"}, "unknown masks.count 'exact': choose from paper, matched"),
        (MaskConfig, {"exchange": "blur"}, "unknown masks.exchange 'blur': choose from swap, grey"),
        (MaskConfig, {"negative_patches": "sky"}, "unknown masks.negative_patches 'sky'"),
        (MaskConfig, {"probability": 1.5}, r"masks\.probability 1\.5 must be in"),
        (MaskConfig, {"strategy": "exchange", "branch": "both"}, "masks.branch both must be query"),
        (AttMaskConfig, {"ratio": (0.5, 0.1)}, r"masks\.attmask\.ratio"),
        (AttMaskConfig, {"show": -0.1}, r"masks\.attmask\.show -0\.1"),
        (MaskConfig, {"soft_high_boost": -0.1}, r"masks\.soft_high_boost -0\.1 must be 0 or more"),
        (MaskConfig, {"soft_high_top": 1.1}, r"masks\.soft_high_top 1\.1 must be in \[0, 1\]"),
        (LearnedConfig, {"mix": 1.5}, r"masks\.learned\.mix 1\.5 must be in \[0, 1\]"),
        (LearnedConfig, {"num_slots": 1}, r"masks\.learned\.num_slots 1 must be 2 or more"),
        (ViewConfig, {"size": 64, "grid": 7}, r"views\.size 64 is not divisible by views.grid 7"),
        (ViewConfig, {"grid": 0}, r"views\.grid 0"),
        (ViewConfig, {"crop_scale": (0.5, 0.2)}, r"views\.crop_scale \(0\.5, 0\.2\) must rise"),
        (ViewConfig, {"crop_scale": (0.0, 1.0)}, r"views\.crop_scale"),
        (ViewConfig, {"crop_aspect": (0.0, 1.0)}, r"views\.crop_aspect"),
        (ViewConfig, {"flip_probability": 1.5}, r"views\.flip_probability 1\.5"),
        (ViewConfig, {"local": -1}, r"views\.local -1 must not be negative"),
        (ViewConfig, {"local": 1, "local_size": 12}, "not a multiple of a patch's side, 32 px"),
        (ViewConfig, {"local": 1, "local_size": 256}, "larger than a view, 224 px"),
        (ViewConfig, {"object_share": 1.5}, r"views\.object_share 1\.5 must be in \[0, 1\]"),
        (ViewConfig, {"local_size": 0}, r"views\.local_size 0 must be 1 or more"),
        (ViewConfig, {"local_tries": 0}, r"views\.local_tries 0 must be 1 or more"),
        (ViewConfig, {"local_scale": (0.0, 0.3)}, r"views\.local_scale \(0\.0, 0\.3\) must rise"),
        (AugmentConfig, {"brightness": 1.1}, "brightness is 1.1: wanted 0 to 1"),
        (AugmentConfig, {"hue": 0.6}, "hue is 0.6: wanted 0 to 0.5"),
        (AugmentConfig, {"grey_probability": -0.1}, "grey_probability"),
        (AugmentConfig, {"blur_probability": float("nan")}, "blur_probability"),
        (AugmentConfig, {"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        (AugmentConfig, {"blur_sigma": (2.0, 1.0)}, "blur_sigma is 2.0 to 1.0"),
    ],
)
def test_settings_out_of_range_are_named(
    kind: type[Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kind(**change)


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
def test_every_strategy_has_its_ratio_and_probability(strategy: str) -> None:
    masker = strategy_masker(MaskConfig(strategy=strategy), False)
    by_order = strategy.startswith("attmask")
    assert masker.ratio == ((0.1, 0.5) if by_order else (0.05, 0.25))
    assert masker.share == (0.5 if by_order else 0.3 if strategy == "exchange" else 1.0)
    other = strategy_masker(MaskConfig(strategy=strategy, probability=0.25), False)
    assert other.share == 0.25
