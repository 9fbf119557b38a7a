"""Settings of methods: ranges, batches that fit, and the local crops that a method takes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from training.config.derived import declared_views
from training.config.pretrain import PretrainConfig
from training.core.schedules import Moment
from training.methods.byol.settings import BYOLConfig
from training.methods.contrastive import log_mass, rho_at
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import HardNegativeConfig
from training.methods.simclr.settings import SimCLRConfig
from training.methods.vicreg.settings import VICRegConfig
from training.views.settings import ViewConfig


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (HardNegativeConfig, ("temperature", 0.0)),
        (HardNegativeConfig, ("hard_negatives", -1)),
        (HardNegativeConfig, ("rho", -1.0)),
        (HardNegativeConfig, ("rho_warmup_epochs", -1.0)),
        (HardNegativeConfig, ("prime_power", -1.0)),
        (HardNegativeConfig, ("prime_bias", 1.5)),
        (HardNegativeConfig, ("hard_mass", 0.0)),
        (HardNegativeConfig, ("queries", 0)),
        (HardNegativeConfig, ("local_weight", 1.5)),
        (HardNegativeConfig, ("object_head", "two")),
        (HardNegativeConfig, ("hard_kind", "two")),
        (HardNegativeConfig, ("object_weight", 1.5)),
        (HardNegativeConfig, ("object_rho", -1.0)),
        (HardNegativeConfig, ("object_exchange_probability", -0.1)),
        (HardNegativeConfig, ("embedding_dim", 0)),
        (HardNegativeConfig, ("head_layers", 0)),
        (HardNegativeConfig, ("head_width", 0)),
        (HardNegativeConfig, ("batch_norm_group", 1)),
        (MoCoConfig, ("key_momentum", 1.0)),
        (MoCoConfig, ("key_momentum_end", 1.1)),
        (MoCoConfig, ("queue_size", 0)),
        (BYOLConfig, ("target_momentum", 1.0)),
        (BYOLConfig, ("predictor_width", 0)),
        (VICRegConfig, ("variance", -1.0)),
    ],
)
def test_settings_out_of_range_are_named(kind: type[Any], wrong: tuple[str, Any]) -> None:
    name, value = wrong
    with pytest.raises(InputError, match=rf"method\.{name} {value} (must|is unknown: choose from)"):
        kind(**{name: value})


def test_batches_that_do_not_fit_are_refused() -> None:
    config = MoCoConfig(queue_size=1024, batch_norm_group=32)
    config.check_batch(64, 2)
    for batch, ranks, message in (
        (96, 1, "queue_size 1024 is not a multiple of the global batch 96: try 960"),
        (64, 4, "32 does not divide the 16 images"),
        (64, 64, "use at most 32 ranks"),
        (32, 1, "query and key would share their batch statistics"),
    ):
        with pytest.raises(InputError, match=message):
            config.check_batch(batch, ranks)
    SimCLRConfig(batch_norm_group=32).check_batch(64, 2)
    with pytest.raises(InputError, match=r"method\.batch_norm_group 32 does not divide the 16"):
        SimCLRConfig(batch_norm_group=32).check_batch(64, 4)


def test_local_crops_are_declared_or_refused() -> None:
    views = ViewConfig(size=32, grid=4, local=2, local_size=16)
    method = MoCoConfig(queries=2, hard_negatives=0)
    config = PretrainConfig(shards=Path("shards"), out=Path("out"), views=views, method=method)
    *others, first, second = declared_views(config)
    assert [view.name for view in others] == ["query", "key", "query-1"]
    assert (first.name, second.name) == ("local-0", "local-1")
    assert (first.crop.cut.size, first.crop.cut.grid) == (16, 2)
    assert first.crop.cut.crop_scale == (0.05, 0.3)
    with pytest.raises(InputError, match=r"views.local 2: method byol takes no local crops"):
        declared_views(replace(config, method=BYOLConfig()))


RHO, OBJECT_RHO = 1.5, 1.7


@pytest.mark.parametrize("kind", [SimCLRConfig, MoCoConfig])
def test_what_the_settings_ask_for(kind: type[HardNegativeConfig]) -> None:
    config = kind(rho=RHO, object_rho=OBJECT_RHO)
    for head, share in {"off": None, "hard": None, "exchange": 0.6, "both": 0.6}.items():
        made = replace(config, object_head=head)  # type: ignore[arg-type]
        assert made.exchange == share
        assert made.num_hard_negatives == (head != "exchange")
        assert not made.has_matched_negatives
        for which, own in (("matched", False), ("both", True)):
            other = replace(made, hard_kind=which)  # type: ignore[arg-type]
            takes = (other.num_hard_negatives, other.has_matched_negatives)
            assert takes == ((0, False) if head == "exchange" else (own, True))
            assert not replace(other, hard_negatives=0).has_matched_negatives
        assert rho_at(made, Moment(50, 10, 100)) == (RHO if head == "off" else OBJECT_RHO)
    rising = replace(config, rho=2.0, rho_warmup_epochs=2)
    assert [rho_at(rising, Moment(step, 10, 100)) for step in (0, 5, 20, 30)] == [0, 0.5, 2, 2]
    # Against n orthogonal negatives the share is the one that rho has against as many as meant.
    masses: tuple[tuple[Any, int], ...] = (("paper", 65536), (1000.0, 1000))
    for mass, meant in masses:
        made = replace(config, hard_mass=mass)
        for negatives in (14, 1024):
            hard = math.exp(2.0 * 0.7 / 0.2 + log_mass(made, negatives))
            assert hard / negatives == pytest.approx(math.exp(7) / meant, rel=1e-12)
    assert log_mass(replace(config, hard_mass=None), 14) == 0
