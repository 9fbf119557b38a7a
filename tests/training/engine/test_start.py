"""A run that starts from another one: its whole state, a schedule of its own, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import InputError
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, HeldoutConfig, KnnConfig, OptimConfig
from training.config.stages import AnchorConfig, ReplayConfig
from training.core.context import LocalContext
from training.encoders.settings import EncoderConfig
from training.engine import anchor, loop
from training.engine.anchor import ANCHOR_FILE
from training.engine.loop import Trainer
from training.engine.preflight import preflight
from training.engine.start import build_method
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, a run on the first one, and another copy of one of its images in a third set."""
    root = tmp_path_factory.mktemp("stages")
    write_shard_set(root / "a", num_images=42, shard_images=14)
    write_shard_set(root / "b", num_images=40, shard_images=14, labels=False, first_number=500)
    write_shard_set(root / "c", num_images=20, first_number=520)  # all of them in b
    assert run(config_of(root, "a", root / "first", epochs=1)).finished
    return root


def config_of(root: Path, shards: str, out: Path, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    given = {"knn": KnnConfig(), "log_every_steps": 1, "epochs": 1, "precision": "fp32"}
    return small_run(root / shards, out, **(given | changes))


def next_stage(root: Path, out: Path, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    return config_of(root, "b", out, **({"start_from": root / "first"} | changes))


def losses(out: Path) -> list[dict[str, float | str]]:
    return [entry for entry in numbers(out) if entry["kind"] == "train"]


def test_a_stage_without_replay_is_a_plain_run_from_the_same_state_to_the_last_bit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = next_stage(root, tmp_path / "stage", optim=OptimConfig(lr=0.01, warmup_epochs=0.5))
    before = weights(root / "first")
    trainer = Trainer(replace(stage, out=tmp_path / "trainer"), LocalContext(CPU))
    own = trainer.method.state_dict()
    assert own.keys() == before.keys()
    assert {name.partition(".")[0] for name in own} == {"query_encoder", "key_encoder", "queue"}
    assert all(torch.equal(own[name], value) for name, value in before.items())
    assert (trainer.step, trainer.optimizer.state_dict()["state"]) == (0, {})
    trainer.record.close(finished=False)
    assert run(stage).finished

    def from_state(config: PretrainConfig) -> Any:  # noqa: ANN401
        method = build_method(config)
        method.load_state_dict(before)
        return method

    monkeypatch.setattr(loop, "build_method", from_state)
    plain = replace(stage, out=tmp_path / "plain", start_from=None)
    assert run(plain).finished
    assert losses(stage.out) == losses(plain.out)
    assert [entry["lr"] for entry in losses(stage.out)][:3] == [0.005, 0.01, 0.01]
    ours, theirs = weights(stage.out), weights(plain.out)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def with_all(root: Path, out: Path) -> PretrainConfig:
    return next_stage(
        root,
        out,
        batch_size=16,
        replay=ReplayConfig(shards=(root / "a",), share=0.25, keep=0.3),
        anchor=AnchorConfig(kind="mas", strength=0.5),
        method=MoCoConfig(queue_size=64, temperature=0.1, batch_norm_group=4, rho_warmup_epochs=1),
        optim=OptimConfig(lr=1e-3),
        epochs=2,
    )


def test_a_stage_with_replay_and_anchor_goes_on_after_a_kill_to_the_last_bit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor, "NUM_IMAGES", 6)
    whole, killed = with_all(root, tmp_path / "whole"), with_all(root, tmp_path / "killed")
    result = run(whole)
    assert (result.finished, result.step) == (True, 2 * (40 // 12))
    entries = losses(whole.out)
    assert entries[0]["anchor_penalty"] == 0
    assert all(float(entry["anchor_penalty"]) > 0 for entry in entries[1:])
    with monkeypatch.context() as patch:  # before its first step, with the anchor written
        patch.delattr(Trainer, "run")
        with pytest.raises(AttributeError):
            run(killed)
    assert (killed.out / ANCHOR_FILE).exists()
    monkeypatch.delattr(anchor, "importances")  # from here on it is read, never measured again
    assert run(killed, StopsAfter(2)).step == 2
    assert run(killed).finished
    assert numbers(killed.out) == numbers(whole.out)
    ours, theirs = weights(killed.out), weights(whole.out)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    other = replace(whole, replay=replace(whole.replay, shards=(root / "c",)))
    monkeypatch.setattr("training.engine.preflight.check_apart", lambda *_: None)
    with pytest.raises(InputError, match=r"other settings \(replay_digests: \["):
        run(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": None, "anchor": AnchorConfig(kind="l2")}, "name it with --start-from"),
        ({"start_from": Path("/nowhere")}, "start_from /nowhere holds no checkpoint: name the fol"),
        (
            {"method": SimCLRConfig(batch_norm_group=4)},
            r"another method or other networks than this run \(.*method\.name: moco_v2 -> simclr",
        ),
        (
            {"encoder": EncoderConfig(architecture="timm:test_efficientnet")},
            r"\(encoder\.architecture: timm:test_resnet -> timm:test_efficientnet\): give the same",
        ),
        (
            {"method": MoCoConfig(queue_size=32, temperature=0.1, batch_norm_group=4)},
            r"\(.*method\.queue_size: 64 -> 32.*\): give the same",
        ),
        (
            {"replay": ReplayConfig(shards=(Path("c"),))},
            r"c shares 20 images \(picture-000520\.jpg, .*, \.\.\.\) with .*/b: sets of a stream",
        ),
        (
            {
                "heldout": HeldoutConfig(shards=Path("a")),
                "replay": ReplayConfig(shards=(Path("a"),)),
            },
            r"heldout\.shards .*a shares 42 images",
        ),
        (
            {"replay": ReplayConfig(shards=(Path("a"),), share=0.25), "data_fraction": 0.01},
            r"fewer than one global batch of 8 \(6 of them new\): lower --batch-size",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    root: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    monkeypatch: Any,  # noqa: ANN401
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(InputError, match=message):
        preflight(next_stage(root, tmp_path / "run", **{"epochs": 1, **changes}), 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": EncoderConfig(init="w.pth")}, "encoder.init w.pth are both given"),
        (
            {"replay": ReplayConfig(shards=(Path("a"),), share=0.95)},
            r"replay\.share 0\.95 is 8 images of a batch of 8: wanted 1 to 7",
        ),
        ({"replay": ReplayConfig(shards=(Path("a"),), share=0.01)}, "0.01 is 0 images of a batch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    root: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        next_stage(root, root / "none", **changes)


def test_a_run_cannot_start_from_its_own_folder(root: Path, tmp_path: Path) -> None:
    first = replace(next_stage(root, root / "first"), checkpoint=CheckpointConfig())
    with pytest.raises(InputError, match=r"holds a run with other settings"):
        preflight(first, 1)
    with pytest.raises(InputError, match=r"is the run's own --out: name another run"):
        preflight(next_stage(root, tmp_path / "x", start_from=tmp_path / "x"), 1)


def test_other_methods_start_from_their_whole_state_too(root: Path, tmp_path: Path) -> None:
    method: MethodConfig = SimCLRConfig(batch_norm_group=4, object_head="hard")
    made = {"method": method, "epochs": 1}
    assert run(config_of(root, "a", tmp_path / "first", **made), StopsAfter(1)).step == 1
    stage = next_stage(root, tmp_path / "next", **made)
    trainer = Trainer(replace(stage, start_from=tmp_path / "first"), LocalContext(CPU))
    before = weights(tmp_path / "first")
    assert any("object_head" in name for name in before)
    own = trainer.method.state_dict()
    assert all(torch.equal(own[name], value) for name, value in before.items())
    trainer.record.close(finished=False)
