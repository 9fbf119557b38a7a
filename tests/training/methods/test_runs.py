"""Whole runs with each method, and with what is no default."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.folder import load_backbone
from pipeline.core.errors import Collapsed, InputError
from tests.runs import NETWORK, StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import CollapseConfig, KnnConfig, OptimConfig
from training.methods.byol.settings import BYOLConfig
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import HardNegativeConfig
from training.methods.simclr.settings import SimCLRConfig
from training.record.metrics import read_metrics
from training.views.settings import MaskConfig, ViewConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=14)
    return root


COMMON: dict[str, Any] = {"batch_norm_group": 4, "head_layers": 3}


@pytest.mark.parametrize("method", [MoCoConfig(queue_size=64, **COMMON), SimCLRConfig(**COMMON)])
def test_every_method_trains_with_every_kind_of_mask(
    shards: Path, tmp_path: Path, method: HardNegativeConfig
) -> None:
    """Two hard negatives, weighed; both branches masked by AttMask in the high-pass mix; LARS."""
    config = small_run(
        shards,
        tmp_path / "run",
        method=replace(method, hard_negatives=2, prime_weights=True),
        epochs=1,
        fill="high_pass",
        masks=MaskConfig(strategy="attmask_hint", branch="both"),
        optim=OptimConfig(name="lars", lr=0.1, weight_decay=1e-6),
        knn=KnnConfig(),
    )
    values = run(config).values
    names = {"loss", "lr", "rho", "all_foreground", "embedding_spread", "instance_accuracy"}
    names |= {f"{kind}_similarity" for kind in ("positive", "negative", "hard_negative")}
    names |= {"hard_negative_share", "hard_negative_margin", "foreground_share"}
    names |= {"images_per_second", "data_wait_share"}
    names |= {
        f"{view}_masked_{stratum}"
        for view in ("query", "key", "negative")
        for stratum in ("foreground", "background")
    }
    names |= {"checked_images", "checked_instance_accuracy", "checked_embedding_spread"}
    assert values.keys() - {"object_sensitivity"} == names
    assert all(np.isfinite(value) for value in values.values())


def test_byol_trains(shards: Path, tmp_path: Path) -> None:
    settings = BYOLConfig(batch_norm_group=4, head_width=32, predictor_width=32)
    config = small_run(shards, tmp_path / "run", method=settings, epochs=1, knn=KnnConfig())
    values = run(config).values
    assert 0 < values["loss"] < 8
    assert 0.99 < values["target_momentum"] <= 1
    assert "negative_masked_foreground" not in values


def test_simclr_resumes_to_the_last_bit(shards: Path, tmp_path: Path) -> None:
    def simclr(out: Path) -> PretrainConfig:
        settings = SimCLRConfig(batch_norm_group=4, rho_warmup_epochs=1, hard_kind="both")
        views = ViewConfig(size=32, grid=4, local=2, local_size=16, local_tries=4)
        return small_run(shards, out, method=settings, views=views, knn=KnnConfig())

    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert run(simclr(whole)).finished
    assert run(simclr(halved), StopsAfter(3)).step == 3
    assert run(simclr(halved)).finished
    assert numbers(halved) == numbers(whole)
    ours, theirs = weights(halved), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_backbone(whole / "backbone")[1].architecture == NETWORK


def test_the_published_code_s_behaviour_trains(shards: Path, tmp_path: Path) -> None:
    masks = MaskConfig(behaviour="released")
    config = small_run(
        shards,
        tmp_path / "run",
        epochs=1,
        fill="high_pass",
        masks=masks,
        views=ViewConfig(size=64, grid=8),
        knn=KnnConfig(),
    )
    values = run(config).values
    assert np.isfinite(values["loss"])
    assert values["negative_masked_background"] > 0
    for method in (config.method, SimCLRConfig(batch_norm_group=4)):
        small = small_run(shards, tmp_path / "other", masks=masks, knn=KnnConfig(), method=method)
        with pytest.raises(InputError, match=r"alone, and at 32 px .*: use larger views \(--views"):
            run(small)
        assert not small.out.exists()


def test_a_collapse_is_recorded_once_and_ends_the_run_where_that_is_asked_for(
    shards: Path, tmp_path: Path
) -> None:
    config = small_run(
        shards,
        tmp_path / "run",
        collapse=CollapseConfig(min_spread=0.99, after_steps=3),
        knn=KnnConfig(),
    )
    assert run(config, StopsAfter(7)).step == 7
    with pytest.raises(Collapsed, match=r"at step 8: .*collapsed.*--on-collapse is stop"):
        run(replace(config, on_collapse="stop"))
    warnings = [e for e in read_metrics(tmp_path / "run") if e["kind"] == "warning"]
    assert [e["step"] for e in warnings] == [4, 8]
    assert "next to no spread" in str(warnings[0]["message"])
