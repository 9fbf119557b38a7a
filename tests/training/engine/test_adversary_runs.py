"""Runs with learned masks: what they keep, compile, refuse and warn of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.saliency.mask_generator import load_generator
from pipeline.saliency.registry import parse_saliency_source
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_shard_set
from tests.training.methods.small import MOMENT, small_inputs, small_method
from training.config.derived import declared_views
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig, OptimConfig
from training.core.checkpoint import CheckpointStore
from training.encoders.settings import EncoderConfig
from training.methods.byol.settings import BYOLConfig
from training.methods.simclr.settings import SimCLRConfig
from training.record.metrics import read_metrics
from training.views.settings import LearnedConfig, MaskConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=14)
    return root


def config_of(shards: Path, out: Path, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    """Two epochs of five steps; the mix rises over the second half of the first one."""
    learned = LearnedConfig(start_epoch=0.5, ramp_epochs=0.5, **changes.pop("learned", {}))
    branch = changes.pop("branch", "query")
    masks = MaskConfig(strategy="learned", count="matched", learned=learned, branch=branch)
    made = {"masks": masks, "knn": KnnConfig(every_epochs=1), "precision": "fp32", **changes}
    return small_run(shards, out, **made)


def adversary_of(out: Path) -> dict[str, Any]:
    checkpoint = CheckpointStore(out / "checkpoints").latest()
    assert checkpoint is not None
    found: dict[str, Any] = torch.load(checkpoint / "state.pt", weights_only=True)["adversary"]
    return found


def test_a_killed_run_equals_one_that_was_not_and_its_generator_is_a_saliency_source(
    shards: Path, tmp_path: Path
) -> None:
    whole, halved = (config_of(shards, tmp_path / name) for name in ("whole", "halved"))
    assert run(whole).finished
    assert run(halved, StopsAfter(4)).step == 4
    assert adversary_of(halved.out)["mix"] == pytest.approx(0.5 * (4 / 5 - 0.5) / 0.5)
    assert run(halved).finished
    assert numbers(halved.out) == numbers(whole.out)
    ours, theirs = weights(halved.out), weights(whole.out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    one, other = adversary_of(halved.out), adversary_of(whole.out)
    assert all(torch.equal(one["generator"][n], v) for n, v in other["generator"].items())
    moments = (list(state["optimizer"]["state"].values()) for state in (one, other))
    assert all(torch.equal(a["exp_avg_sq"], b["exp_avg_sq"]) for a, b in zip(*moments, strict=True))
    assert float(other["generator"]["out.weight"].abs().max()) > 0

    trained = [e for e in read_metrics(whole.out) if e["kind"] == "train"]
    assert [e["mask_mix"] for e in trained] == pytest.approx([0, 0.1, 0.3, 0.5, 0.5, 0.5])
    measured = {"learned_loss", "learned_minus_random", "logits_between_images"}
    assert all(measured | {"query_masked_foreground"} <= e.keys() for e in trained)
    assert load_generator(whole.out).provenance["step"] == 10
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    for place in ("", "generator.pth", "checkpoints/step-00000005"):
        source = parse_saliency_source(f"learned:weights={whole.out / place}").pinned()
        assert source([image])[0].shape == (4, 6)
    assert (whole.out / "contact_sheets" / "step-00000005.png").stat().st_size > 1000


def test_in_a_small_run_the_loss_is_greater_than_under_random_masks_of_equal_size(
    tmp_path: Path,
) -> None:
    """Over the second half of 30 steps."""
    write_shard_set(tmp_path / "shards", num_images=64, shard_images=16)
    learned, method = LearnedConfig(lr=0.01), SimCLRConfig(batch_norm_group=8)
    masks = MaskConfig(strategy="learned", query_ratio=(0.3, 0.5), learned=learned)
    made: dict[str, Any] = {"batch_size": 32, "epochs": 15, "optim": OptimConfig(lr=0.03)}
    made |= {"masks": masks, "method": method, "knn": KnnConfig(every_epochs=100)}
    run(small_run(tmp_path / "shards", tmp_path / "run", precision="fp32", **made))
    trained = [e for e in numbers(tmp_path / "run") if e["kind"] == "train"]
    late = [entry for entry in trained if float(entry["step"]) > 15]
    assert np.mean([float(entry["learned_minus_random"]) for entry in late]) > 0
    assert np.mean([float(entry["logits_between_images"]) for entry in late]) > 0.1


def test_a_compiled_encoder_in_bfloat16_has_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, run without generated code, as in `tests/training/encoders/test_encoder.py`."""
    monkeypatch.setattr("training.encoders.encoder.COMPILER", "eager")
    config, found = SimCLRConfig(batch_norm_group=2), []
    inputs = small_inputs(config)
    views = {name: image.float() for name, image in inputs.views.items()}
    for compiled in (False, True):
        method = small_method(config).float()
        method.backbone.compiled = compiled
        method.backbone._compile()
        query = views["query"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            share = inputs._replace(views=views)
            kept = method.step(share, encode=method.trained, moment=MOMENT).kept
            loss = method.adversary_loss(query, kept)
        found.append((loss.detach(), *torch.autograd.grad(loss, query)))
    torch.testing.assert_close(found[1], found[0])
    assert float(found[0][1].abs().max()) > 0


def test_slots_train_in_bfloat16_without_comparison(shards: Path, tmp_path: Path) -> None:
    learned, out = {"kind": "slots", "compare": False}, tmp_path / "run"
    changes: dict[str, Any] = {"precision": "bf16", "fill": "blur", "knn": KnnConfig()}
    values = run(config_of(shards, out, learned=learned, **changes), StopsAfter(2)).values
    assert all(np.isfinite(value) for value in values.values())
    assert "learned_minus_random" not in values
    state = adversary_of(out)["generator"]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert len(state["out.bias"]) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fill": "high_pass"}, "strategy learned replaces whole patches, but fill high_pass has"),
        ({"method": BYOLConfig()}, "learned: method byol offers no adversary_loss.*simclr or moco"),
        ({"encoder": EncoderConfig(stem="small_partial")}, "encoder.stem partial, which sees no"),
        ({"branch": "both"}, "learned changes the query only: masks.branch both must be query"),
        ({"learned": {"kind": "top"}}, "unknown masks.learned.kind 'top': choose from topk, slots"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        declared_views(config_of(Path("s"), Path("o"), **changes))
    assert "\n" not in str(caught.value)


def test_masks_that_are_the_same_for_every_image_are_warned_of(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = "training.engine.adversary.between_images"
    for name, value in (("alike", 0.09), ("apart", 0.11)):
        monkeypatch.setattr(share, lambda _, value=value: torch.tensor(value))
        config = config_of(shards, tmp_path / name, knn=KnnConfig())
        run(config, StopsAfter(8))
    told = [e for e in read_metrics(tmp_path / "alike") if e["kind"] == "warning"]
    assert [e["step"] for e in told] == [6], "once, and not before the ramp's end"
    assert "same for every image: 9% of the variance" in str(told[0]["message"])
    assert "warning" not in {e["kind"] for e in read_metrics(tmp_path / "apart")}
