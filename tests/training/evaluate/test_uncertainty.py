"""The protocol on encoders whose answer is known, and u(x) by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from pipeline.core.errors import InputError
from pipeline.saliency.foreground import foreground
from tests.training.evaluate.cases import SIZE, Colours, case_of, extractor_of, folders
from training.config.pretrain import PretrainConfig
from training.evaluate import uncertainty as module
from training.evaluate.calibration import calibration_error
from training.evaluate.case import Case
from training.evaluate.config import DiagnosticsConfig
from training.evaluate.frozen import knn_votes, linear, linear_probe
from training.evaluate.labelled import LabelledImages
from training.evaluate.laplace import laplace, mean_softmax
from training.evaluate.results import Result
from training.evaluate.uncertainty import disagreement, masked_views, masking_of, uncertainty
from training.evaluate.uncertainty_settings import UncertaintyConfig
from training.randomness.draws import Stream, sample_seeds, uniforms, view_number
from training.views.settings import MaskConfig, ViewConfig

Sets = tuple[LabelledImages, LabelledImages]
VARIANTS = ("masked_views", "knn_margin", "probe", "laplace")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    root = tmp_path_factory.mktemp("uncertainty")
    return folders(root / "train", 45, seed=0), folders(root / "val", 40, seed=1)


def look(network: nn.Module, sets: Sets, **settings: Any) -> Case:  # noqa: ANN401
    return case_of(network, *sets, k=5, uncertainty=UncertaintyConfig(**settings))


def columns(case: Case) -> dict[str, Result]:
    return {result.column: result for result in uncertainty(case)}


def test_equal_views_agree_and_orthogonal_ones_do_not() -> None:
    for num in (2, 4, 16):
        rows = torch.eye(16)[:num, None]
        assert float(disagreement(rows)) == pytest.approx(1 - 1 / math.sqrt(num))
        assert float(disagreement(rows[:1].expand(num, 1, 16))) == pytest.approx(0, abs=1e-12)
    assert float(disagreement(torch.eye(16)[:1, None])) == 0, "one view"
    assert float(disagreement(torch.tensor([[[1.0, 0]], [[-1, 0]]]))) == 1


class Corner(nn.Module):
    """Sees the channels' means in the first of 8 x 8 patches, and a constant."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        corner = x_BCHW[..., :2, :2].mean(dim=(2, 3))
        return torch.cat([corner, torch.ones(len(corner), 1)], dim=1)


def test_u_by_hand(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without saliency all is foreground: of 64 patches round(r * 64), the lowest, are masked."""
    case, expected = look(Corner(), sets, views=6), []
    found, settings = masked_views(case)
    for number in range(40):
        seeds = sample_seeds(0, 0, np.array([number]))
        pixels, _ = case.encoder.centre_views(case.val, np.array([number]), grid=8)
        prepared = case.encoder.prepare(pixels)
        rows = []
        for index in range(6):
            view = view_number(f"uncertain-{index}")
            ratio = 0.05 + 0.2 * uniforms(seeds, view, Stream.MASK_RATIO, 1)[0, 0]
            scores = uniforms(seeds, view, Stream.MASK_SCORES, 64)[0]
            hidden = 0 in np.argsort(scores, kind="stable")[: round(ratio * 64)]
            seen = prepared.mean(dim=(2, 3))[0] if hidden else prepared[0, :, :2, :2].mean((1, 2))
            row = np.append(seen.numpy().astype(np.float64), 1)
            rows.append(row / np.linalg.norm(row))
        expected.append(1 - np.linalg.norm(np.mean(rows, axis=0)))
    assert np.allclose(found.numpy(), expected, atol=1e-6)
    assert 5 < sum(value > 1e-4 for value in expected) < 40, "some hide the corner in some views"
    assert settings["embedding"] == "features"
    # Whatever the batch, and for another seed others.
    monkeypatch.setattr(module, "CPU_ROWS", 7)
    torch.testing.assert_close(masked_views(case)[0], found, atol=1e-6, rtol=0)
    other = replace(case, config=replace(case.config, seed=1))
    assert not torch.allclose(masked_views(other)[0], found, atol=1e-4)
    assert float(masked_views(look(Corner(), sets, views=1))[0].max()) < 1e-7, "one view"
    for fill in ("blur", "high_pass"):
        info = replace(case.encoder.info, provenance={"config": {"fill": fill}})
        filled, settings = masked_views(replace(case, encoder=replace(case.encoder, info=info)))
        assert settings["fill"] == fill
        assert 0 < float(filled.max()) < 1


def test_the_head_embeds_where_there_is_one(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = nn.Sequential(nn.Linear(4, 2))
    nn.init.zeros_(blind[0].weight)  # type: ignore[arg-type]
    heads = {("made", "momentum"): blind}
    monkeypatch.setattr(module, "load_head", lambda path, name: heads[path, name])
    case = look(Corner(), sets, views=6)
    case.encoder = replace(case.encoder, kind="momentum")
    found, settings = masked_views(case)
    assert float(found.max()) < 1e-6, "its constant output"
    assert settings["embedding"] == "head"


def test_every_figure(sets: Sets) -> None:
    case = look(Corner(), sets, views=3, certain=1.0)
    found = columns(case)
    names = [f"{figure} {v}" for v in VARIANTS[2:] for figure in ("nll", "calibration_error")]
    names += [f"{figure} {v}" for v in VARIANTS for figure in ("error_auroc", "certain_top1")]
    assert list(found) == names
    (probe,) = linear(case)
    for name in VARIANTS:
        assert found[f"certain_top1 {name}"].figure == pytest.approx(probe.figure)
    for result in found.values():
        assert result.interval is not None
        assert result.interval[0] <= result.interval[1]
        assert result.settings["fill"] == "mean"
    # Two pixels by two of noise: some answers are wrong.
    assert 50 < probe.figure < 100
    assert found["error_auroc probe"].figure > 0.55
    assert 0.1 < found["nll probe"].figure < math.log(3)
    assert abs(found["nll laplace"].figure - found["nll probe"].figure) < 0.2
    features, labels = case.features_val
    fitted = linear_probe(*case.features_train, features, labels, num_classes=3, seed=0)
    seen = (F.pad(x, (0, 1), value=1.0) for x in (fitted.train_MD, fitted.val_VD))
    given = laplace(fitted.weights, *seen, precision=45 * fitted.strength)
    p_MK = mean_softmax(*given, seed=0)
    assert found["nll laplace"].figure == pytest.approx(float(F.nll_loss(p_MK.log(), labels)))
    top, kind = p_MK.max(dim=1)
    error = calibration_error(top.numpy(), (kind == labels).numpy(), np.ones(40))
    assert found["calibration_error laplace"].figure == pytest.approx(error)
    voting: dict[str, Any] = {"k": 5, "temperature": case.config.temperature}
    votes = knn_votes(*case.features_train, features, num_classes=3, **voting).numpy()
    second, first = (np.sort(votes) / votes.sum(axis=1, keepdims=True)).T[1:]
    wrong = fitted.predicted_V != labels
    margin = found["error_auroc knn_margin"].figure
    assert margin == pytest.approx(roc_auc_score(wrong, second - first))
    half = columns(look(Corner(), sets, views=3, certain=0.5))
    assert half["certain_top1 probe"].figure > probe.figure
    assert half["error_auroc masked_views"].figure != half["error_auroc probe"].figure
    assert columns(case) == found, "the same seed says the same"
    one_class = replace(case, train=replace(case.train, class_names=("one",)))
    with pytest.raises(InputError, match="two classes or more"):
        uncertainty(one_class)


def test_the_foreground_is_by_the_run_s_rule(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, rules = look(Corner(), sets, views=1), []
    masks = MaskConfig(foreground="std", foreground_threshold=0.3)
    run = PretrainConfig(shards=tmp_path, out=tmp_path, masks=masks)
    info = replace(case.encoder.info, provenance={"config": run.to_json()})
    case.encoder = replace(case.encoder, info=info)

    def marked(saliency_BGG: torch.Tensor, **rule: Any) -> torch.Tensor:  # noqa: ANN401
        rules.append(rule)
        return foreground(saliency_BGG, **rule)

    monkeypatch.setattr(module, "foreground", marked)
    masked_views(case)
    assert rules[0] == {"rule": "std", "threshold": 0.3}


def test_masks_are_the_runs(tmp_path: Path) -> None:
    plain = extractor_of(Colours())
    assert masking_of(plain, DiagnosticsConfig()) == (MaskConfig(probability=1.0), 8)

    def recorded(masks: MaskConfig, grid: int = 4, **changes: object) -> tuple[MaskConfig, int]:
        cut = ViewConfig(size=SIZE * grid, grid=grid)
        run = PretrainConfig(shards=tmp_path, out=tmp_path, masks=masks, views=cut)
        config = run.to_json() | changes
        info = replace(plain.info, provenance={"config": config})
        return masking_of(replace(plain, info=info), DiagnosticsConfig())

    own = MaskConfig(strategy="attmask_low", query_ratio=(0.3, 0.4), foreground="std")
    assert recorded(own) == (replace(own, probability=1.0), 4)
    assert recorded(own, grid=3)[1] == 8, "3 does not divide 16"
    for name in ("none", "shuffled", "exchange"):
        found = recorded(MaskConfig(strategy=name, query_ratio=(0.3, 0.4)))[0]
        assert found == MaskConfig(query_ratio=(0.3, 0.4), probability=1.0), name
    assert recorded(own, version=99) == masking_of(plain, DiagnosticsConfig()), (
        "settings that it cannot read"
    )
