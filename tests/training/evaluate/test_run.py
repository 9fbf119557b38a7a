"""Checkpoints by protocols, alone and as two ranks."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from pipeline.shardset.manifest import DatasetInfo
from tests.listeners import Kept
from tests.ranks import in_ranks
from tests.training.evaluate.cases import (
    CPU,
    NAMES,
    Colours,
    case_of,
    exported,
    folders,
    pictures,
    write_folders,
)
from training.evaluate import frozen
from training.evaluate.case import Case
from training.evaluate.channels_config import ChannelsConfig
from training.evaluate.config import (
    BackgroundsConfig,
    DiagnosticsConfig,
    EvaluateConfig,
    FinetuneConfig,
    PaperProbeConfig,
)
from training.evaluate.results import Result, read_predictions, read_results
from training.evaluate.run import PROTOCOLS, evaluate
from training.evaluate.uncertainty_settings import UncertaintyConfig

FEW_STRENGTHS = (1.0, 0.01)
Evaluated = tuple[EvaluateConfig, list[Result], Kept]


@pytest.fixture(scope="module")
def base(
    tmp_path_factory: pytest.TempPathFactory, make_labelled_shards: Callable[..., DatasetInfo]
) -> EvaluateConfig:
    folder = tmp_path_factory.mktemp("evaluate")
    exported(folder / "run" / "backbone")
    make_labelled_shards(folder / "train", *pictures(31, seed=0, contrast=55), NAMES)
    centre = np.pad(np.ones((4, 4), np.float32), 2)
    make_labelled_shards(
        folder / "val", *pictures(21, seed=1, contrast=55), NAMES, saliency=[centre] * 21
    )
    write_folders(folder / "folders", 21, seed=1)
    return EvaluateConfig(
        checkpoint=(str(folder / "run"),),
        train=folder / "train",
        val=folder / "val",
        results=folder / "results",
        k=5,
        batch_size=8,
        backgrounds=BackgroundsConfig(backgrounds=2),
        channels=ChannelsConfig(budgets=(0.5,), images=16, rounds=2),
        diagnostics=DiagnosticsConfig(ratios=(0.5,), max_images=8),
        uncertainty=UncertaintyConfig(views=2),
        linear_paper=PaperProbeConfig(epochs=2, batch_size=8),
        finetune=FinetuneConfig(
            shares=(0.2, 1.0), draws=2, epochs=1, min_steps=2, batch_size=8, batch_norm_group=4
        ),
    )


@pytest.fixture(scope="module", autouse=True)
def few_strengths() -> Iterator[None]:
    """Of L2 regularisation, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "STRENGTHS", FEW_STRENGTHS)
        yield


@pytest.fixture(scope="module")
def whole(base: EvaluateConfig) -> Evaluated:
    """All protocols on the export and on untrained networks."""
    config = replace(
        base,
        checkpoint=(*base.checkpoint, "untrained"),
        protocol=tuple(PROTOCOLS),
        results=base.train.parent / "whole",
    )
    kept = Kept()
    with listening(kept):
        results = evaluate(config, CPU)
    return config, results, kept


def test_figures_are_recorded_and_said(whole: Evaluated) -> None:
    config, results, kept = whole
    assert read_results(config.results) == [
        replace(r, settings=json.loads(json.dumps(r.settings))) for r in results
    ]
    said = [line for line in kept.lines if not line.startswith("backgrounds: 21 images")]
    assert said == [f"{r.row}: {r.column} {r.figure:.4g}" for r in results]
    assert len(kept.lines) == len(said) + 4  # one trained network, three untrained ones
    shown = {standing.work for standing in kept.standings}
    slow = {"linear_paper", "finetune on 6 images", "backgrounds", "diagnostics", "uncertainty"}
    assert slow < shown
    assert all(s.done <= s.total for s in kept.standings)
    assert {s.work for s in kept.standings if s.done == s.total} == shown


def test_every_protocol_gives_its_figures(whole: Evaluated) -> None:
    config, results, _ = whole
    columns = {(r.checkpoint, r.column): r for r in results}
    for name in config.checkpoint:
        for column in ("knn", "linear", "linear_paper", "finetune 20 %", "finetune 100 %"):
            found = columns[name, column]
            assert found.interval is not None
            assert found.interval[0] <= found.figure <= found.interval[1]
            assert 0 <= found.more["mean_per_class"] <= 100
            assert (found.num_val, found.seed) == (21, 0)
        assert columns[name, "uniformity"].interval is not None
        for column in ("nll probe", "calibration_error laplace", "error_auroc masked_views"):
            low, high = columns[name, column].interval or (1.0, 0.0)
            assert 0 <= low <= high
        assert columns[name, "backgrounds other approximate"].num_val == 21
        drawn = columns[name, "finetune 20 %"]
        assert drawn.num_train == 6
        assert drawn.figure == pytest.approx((drawn.more["draw 0"] + drawn.more["draw 1"]) / 2)
        assert "draw 0" not in columns[name, "finetune 100 %"].more
    predictions = {
        (p.result.checkpoint, p.result.checkpoint_digest, p.result.column): p
        for p in read_predictions(config.results)
    }
    for (name, column), found in columns.items():
        if found.name == "top1":
            seeds = found.checkpoint_digest.removeprefix("random:").split(",")
            is_random = name.startswith("untrained")
            digests = [f"random:{s}" for s in seeds] if is_random else seeds
            rights = [predictions[name, digest, column].right_DV for digest in digests]
            assert {r.shape for r in rights} == {(2 if found.variant == "20 %" else 1, 21)}
            assert 100 * np.mean(rights) == pytest.approx(found.figure)
    info = json.loads((Path(config.checkpoint[0]) / "backbone" / "backbone.json").read_text())
    assert columns[config.checkpoint[0], "knn"].checkpoint_digest == info["weights_sha256"]


def test_untrained_is_the_mean_of_three_networks_and_of_one_for_slow_protocols(
    whole: Evaluated,
) -> None:
    columns = {r.column: r for r in whole[1] if r.checkpoint == "untrained"}
    untrained, slow = columns["knn"], columns["finetune 20 %"]
    assert untrained.checkpoint_digest == "random:0,1,2"
    by_seed = [untrained.more[f"seed {seed}"] for seed in range(3)]
    assert untrained.figure == pytest.approx(sum(by_seed) / 3)
    assert untrained.interval is not None
    assert untrained.interval[0] < min(by_seed) <= max(by_seed) < untrained.interval[1]
    assert untrained.settings["untrained_seeds"] == 3
    assert (slow.checkpoint_digest, slow.settings["untrained_seeds"]) == ("random:0", 1)


def _in_rank(number: int, config: EvaluateConfig) -> None:
    torch.set_num_threads(1)
    frozen.STRENGTHS = FEW_STRENGTHS
    store = f"file://{config.results.parent}/store"
    dist.init_process_group("gloo", init_method=store, rank=number, world_size=2)
    results = evaluate(config, CPU)
    torch.save([r.figure for r in results], config.results.parent / f"rank{number}.pt")
    dist.destroy_process_group()


def test_two_ranks_agree_with_one(base: EvaluateConfig, whole: Evaluated, tmp_path: Path) -> None:
    protocols = ("knn", "backgrounds", "channels", "linear_paper", "finetune", "uncertainty")
    alone = {
        (r.checkpoint, r.column): r
        for r in whole[1]
        if r.encoder == "query" and (r.protocol in protocols or r.checkpoint != base.checkpoint[0])
    }
    config = replace(base, protocol=protocols, results=tmp_path / "two")
    in_ranks(_in_rank, 2, config)
    together = read_results(config.results)
    assert {(r.checkpoint, r.column) for r in together} == set(alone)
    assert len(together) == len(alone), "one rank writes"
    assert len(read_predictions(config.results)) == sum(r.name == "top1" for r in together)
    for number in range(2):
        figures = torch.load(tmp_path / f"rank{number}.pt", weights_only=True)
        assert figures == [r.figure for r in together]
    for found in together:
        # Sums in another order may turn a close call: of 21 images at most one.
        slack = 0.0 if found.protocol in ("knn", "backgrounds") else 100 / 21 + 1e-6
        slack = 0.02 if found.protocol == "uncertainty" else slack
        expected = alone[found.checkpoint, found.column].figure
        if found.name != "ms":
            assert found.figure == pytest.approx(expected, abs=slack), found.column


def test_without_labels_there_are_diagnostics(
    base: EvaluateConfig, tmp_path: Path, make_labelled_shards: Callable[..., DatasetInfo]
) -> None:
    make_labelled_shards(tmp_path / "plain", pictures(9, seed=2)[0], [0] * 9)
    config = replace(base, protocol=("diagnostics",), results=tmp_path / "results")
    found = evaluate(replace(config, val=tmp_path / "plain"), CPU)
    assert {r.name for r in found} == {"alignment", "uniformity", "effective_rank", "cosine"}
    # The classes of another set, and no saliency, which is said.
    write_folders(tmp_path / "others", 9, seed=1, names=("a", "b", "c"))
    kept = Kept()
    with listening(kept):
        found = evaluate(replace(config, val=tmp_path / "others"), CPU)
    first_words = {r.variant.partition(" ")[0] for r in found if r.name == "cosine"}
    assert first_words == {"random", "0"}  # the local curve's variants begin with the distance
    assert any(line.endswith("no saliency: random patches alone are masked") for line in kept.lines)
    refused(base, "classes of .* differ", val=tmp_path / "others", protocol=("diagnostics", "knn"))


def test_settings_reach_the_encoder(
    base: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Case] = []

    def protocol(case: Case) -> list[Result]:
        seen.append(case)
        return [case.result("knn", "top1", 0.0, settings={})]

    monkeypatch.setitem(PROTOCOLS, "knn", protocol)
    evaluate(replace(base, protocol=("knn",), bf16=True, results=tmp_path), CPU)
    (case,) = seen
    assert (case.encoder.batch_size, case.encoder.autocast_dtype) == (8, torch.bfloat16)


def refused(base: EvaluateConfig, message: str, **changes: object) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(replace(base, **changes), CPU)  # type: ignore[arg-type]
    assert not base.results.exists()


def test_bad_input(base: EvaluateConfig, tmp_path: Path) -> None:
    run = base.checkpoint[0]
    refused(base, "unknown protocol 'svm'.*knn, linear", protocol=("svm",))
    unmasked = base.train.parent / "folders"
    refused(base, "backgrounds needs masks", val=unmasked, protocol=("knn", "backgrounds"))
    refused(base, "named twice", checkpoint=(run, run))
    refused(base, "name one as well", checkpoint=("untrained",))
    refused(base, "no folder .*nowhere", checkpoint=(run, str(tmp_path / "nowhere")))
    refused(base, "kept in checkpoints only", encoder="momentum")
    refused(base, "k = 99: wanted 1 to 31", k=99)


def test_an_accuracy_by_hand(tmp_path: Path) -> None:
    images = folders(tmp_path, 7, seed=0)
    case = case_of(Colours(), images, images)
    labels = torch.from_numpy(images.labels())
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    predicted = labels.clone()
    predicted[1:3] = 1
    found = case.accuracy("knn", predicted, settings={"k": 5})
    assert found.figure == pytest.approx(100 * 5 / 7)
    assert found.more == {"mean_per_class": pytest.approx(100 * (1 / 3 + 1 + 1) / 3)}
    assert found.settings == {"view_size": 16, "bf16": False, "device": "cpu", "k": 5}
    (kept,) = read_predictions(case.config.results)
    assert (kept.result, kept.class_names) == (found, images.class_names)
    assert kept.right_DV.sum() == 5
    drawn = case.accuracy("finetune", torch.stack([predicted, labels]), settings={}, num_train=3)
    assert drawn.figure == pytest.approx((found.figure + 100) / 2)
    assert (drawn.more["draw 0"], drawn.more["draw 1"]) == pytest.approx((found.figure, 100))
    assert (drawn.num_train, drawn.num_val) == (3, 7)
