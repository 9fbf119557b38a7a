"""Streams of sets: their runs, figures against another way to them, kills, what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from pipeline.core.errors import InputError
from tests.ranks import in_ranks
from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_images, write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import HeldoutConfig, KnnConfig, OptimConfig
from training.config.stages import AnchorConfig, ReplayConfig
from training.core.checkpoint import CheckpointStore
from training.encoders.export import load_head
from training.encoders.settings import EncoderConfig
from training.engine import anchor
from training.engine.anchor import ANCHOR_FILE
from training.evaluate.checks import heldout_loss
from training.evaluate.encoders import load_encoders
from training.evaluate.frozen import knn_predict
from training.evaluate.labelled import hashed_subset, open_labelled
from training.methods.interface import unit_rows
from training.stream.config import Stream
from training.stream.figures import Asked, measure
from training.stream.forgetting import Forgetting, read_forgetting
from training.stream.run import run_stream

CPU = torch.device("cpu")
on_cpu = partial(measure, device=CPU)
SETS = {"a": 24, "b": 20, "c": 16}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets, the last one without labels, and validation images of each."""
    root = tmp_path_factory.mktemp("sets")
    for number, (name, count) in enumerate(SETS.items()):
        made: dict[str, Any] = {"labels": name != "c", "shard_images": 10}
        first = 1000 * number
        write_shard_set(root / name, num_images=count, first_number=first, **made)
        write_shard_set(root / f"{name}-val", num_images=12, first_number=first + 500, **made)
    return root


def stream_of(root: Path, out: Path, *, has_val: bool = True, **changes: Any) -> Stream:  # noqa: ANN401
    base = small_run(
        root / "a",
        out,
        epochs=1,
        knn=KnnConfig(k=5),
        heldout=HeldoutConfig(bank_size=4),
        log_every_steps=1,
        replay=ReplayConfig(share=0.25, keep=0.3),
        anchor=AnchorConfig(kind="mas", strength=0.1),
        precision="fp32",
    )
    vals = tuple(root / f"{name}-val" for name in SETS) if has_val else ()
    given: dict[str, Any] = {
        "stages": tuple(root / name for name in SETS),
        "val": vals,
        "joint": True,
    }
    return Stream(**(given | changes), base=base)


def test_a_stage_starts_from_the_one_before_and_replays_all_before_it(tmp_path: Path) -> None:
    base = replace(
        small_run(tmp_path / "-", tmp_path / "out"),
        start_from=tmp_path / "old",
        encoder=EncoderConfig(),
        replay=ReplayConfig(shards=(tmp_path / "x",), share=0.5, keep=0.3),
        anchor=AnchorConfig(kind="l2"),
    )
    sets = tuple(tmp_path / name for name in "abc")
    stream = Stream(stages=sets, base=base)
    stages = [stream.stage(number) for number in range(3)]
    assert [stage.shards for stage in stages] == list(sets)
    assert [stage.out.name for stage in stages] == ["stage-00", "stage-01", "stage-02"]
    assert [stage.start_from for stage in stages] == [
        tmp_path / "old",
        *(s.out for s in stages[:2]),
    ]
    assert stages[2].replay == replace(base.replay, shards=(tmp_path / "x", *sets[:2]))
    assert stages[0].anchor == base.anchor
    alone = replace(
        base, start_from=None, encoder=EncoderConfig(init="w.pth"), replay=ReplayConfig(share=0)
    )
    stages = [Stream(stages=sets, base=alone).stage(number) for number in range(2)]
    assert [stage.encoder.init for stage in stages] == ["w.pth", None]
    assert [stage.anchor.kind for stage in stages] == ["none", "l2"]
    assert [stage.replay for stage in stages] == [ReplayConfig(share=0)] * 2
    joint = stream.joint_run([60, 30, 10], 77)
    assert joint.replay == ReplayConfig(shards=sets[1:], share=0.4, keep=1.0)
    assert stream.joint_run([9000, 1, 1], 77).num_replayed == 1
    assert stream.joint_run([60], 77).num_replayed == 0
    assert (joint.epoch_steps, joint.out.name, joint.anchor.kind) == (77, "joint", "none")


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Forgetting]:
    out = tmp_path_factory.mktemp("streams") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor, "NUM_IMAGES", 5)
        table = run_stream(stream_of(root, out), run, on_cpu)
    assert table is not None
    return out, table


class Unit(nn.Module):
    def forward(self, rows_BD: Tensor) -> Tensor:
        return unit_rows(rows_BD)


def test_the_table_has_the_figures_of_every_network_on_every_set(
    root: Path, undisturbed: tuple[Path, Forgetting]
) -> None:
    """Against those of the exported backbones and heads."""
    out, table = undisturbed
    assert table.kinds == ("knn", "knn", "heldout_loss")
    assert table.values_ST.shape == (3, 3)
    folders = [*(f"stage-{number:02d}" for number in range(3)), "joint"]
    assert table.joint_T is not None
    for folder, values in zip(folders, [*table.values_ST, table.joint_T], strict=True):
        name = str(out / folder / "backbone")
        (encoder,) = load_encoders([name], encoder="query", seed=0, device=CPU, num_threads=1)
        for place, one in enumerate(("a", "b")):
            bank, labels = encoder.features(open_labelled(root / one))
            features, wanted = encoder.features(open_labelled(root / f"{one}-val"))
            found = knn_predict(bank, labels, features, num_classes=3, k=5)
            share = 100 * float((found == wanted).double().mean())
            assert values[place] == pytest.approx(share)
        head = load_head(out / folder, "query")
        assert head is not None
        rows = replace(encoder, network=nn.Sequential(encoder.network, head, Unit()))
        held = open_labelled(root / "c-val", labels=False)
        expected = heldout_loss(rows, held, HeldoutConfig(bank_size=4))
        assert values[2] == pytest.approx(expected, rel=1e-4)
    assert len({float(values[2]) for values in table.values_ST}) == 3
    assert read_forgetting(out).lines() == table.lines()


def test_the_joint_run_takes_as_many_steps_and_its_share_of_every_set(
    root: Path, undisturbed: tuple[Path, Forgetting]
) -> None:
    out, _ = undisturbed
    done = {folder.name: CheckpointStore(folder / "checkpoints").steps()[-1] for folder in
            (*out.glob("stage-*"), out / "joint")}  # fmt: skip
    # 24, 20 and 16 images; from the second stage on 6 new ones a step
    assert done == {"stage-00": 3, "stage-01": 3, "stage-02": 2, "joint": 8}


def same_as(out: Path, other: Path) -> None:
    """All runs of two streams have the same record and the same weights to the last bit."""
    for folder in sorted(path.parent for path in other.glob("*/config.json")):
        assert numbers(out / folder.name) == numbers(folder)
        ours, theirs = weights(out / folder.name), weights(folder)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items()), folder


def test_a_stream_that_was_stopped_within_stages_and_between_them_ends_with_the_same_bits(
    root: Path,
    tmp_path: Path,
    undisturbed: tuple[Path, Forgetting],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At first there are only two stages; the third one, and the joint run, come later."""
    monkeypatch.setattr(anchor, "NUM_IMAGES", 5)
    stream = stream_of(root, tmp_path / "stopped")
    short = replace(stream, stages=stream.stages[:2], val=stream.val[:2], joint=False)
    assert run_stream(short, lambda one: run(one, StopsAfter(2)), on_cpu) is None

    def killed_at(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(given: Any) -> Any:  # noqa: ANN401
            config: PretrainConfig = given.run if isinstance(given, Asked) else given
            if config.out.name == stage:
                raise KeyboardInterrupt
            return function(given)

        return call

    for launched, measured in (
        (run, killed_at("stage-00", on_cpu)),  # trained, and not measured
        (killed_at("stage-01", run), on_cpu),  # measured, and the next one not begun
    ):
        with pytest.raises(KeyboardInterrupt):
            run_stream(short, launched, measured)
    assert not (stream.base.out / "stage-01").exists()
    assert run_stream(short, lambda one: run(one, StopsAfter(1)), on_cpu) is None
    assert run_stream(short, run, on_cpu) is not None
    table = run_stream(stream, run, on_cpu)
    assert table is not None
    assert table.lines() == undisturbed[1].lines()
    same_as(stream.base.out, undisturbed[0])

    def never(_given: object) -> Any:  # noqa: ANN401
        raise AssertionError("measured again")

    again = run_stream(stream, run, never)  # all is there
    assert again is not None
    np.testing.assert_array_equal(again.values_ST, table.values_ST)


def _in_rank(rank: int, root: Path, out: Path) -> None:
    torch.set_num_threads(1)
    anchor.NUM_IMAGES = 5
    dist.init_process_group("gloo", init_method=f"file://{out}-store", rank=rank, world_size=2)
    run_stream(short_of(root, out), run, on_cpu)
    dist.destroy_process_group()


def short_of(root: Path, out: Path) -> Stream:
    """Two stages of small steps: rounding errors grow fast with large ones."""
    stream = stream_of(root, out, joint=False)
    base = replace(stream.base, optim=OptimConfig(lr=1e-4))
    return replace(stream, stages=stream.stages[:2], val=stream.val[:2], base=base)


def test_two_ranks_have_the_samples_the_anchor_and_the_losses_of_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same first stage: its running statistics depend on the number of ranks."""
    monkeypatch.setattr(anchor, "NUM_IMAGES", 5)
    assert run_stream(short_of(root, tmp_path / "one"), run, on_cpu) is not None
    shutil.copytree(tmp_path / "one" / "stage-00", tmp_path / "two" / "stage-00")
    in_ranks(_in_rank, 2, root, tmp_path / "two")
    stages = [tmp_path / ranks / "stage-01" for ranks in ("one", "two")]
    one, two = ([e for e in numbers(stage) if e["kind"] == "train"] for stage in stages)
    assert [entry["samples_seen"] for entry in two] == [entry["samples_seen"] for entry in one]
    for name in ("loss", "anchor_penalty"):
        ours, theirs = ([entry[name] for entry in entries] for entries in (two, one))
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-12), name
    kept = [torch.load(stage / ANCHOR_FILE)["importance"] for stage in stages]
    for name, value in kept[0].items():
        torch.testing.assert_close(kept[1][name], value, rtol=1e-3, atol=1e-5)
    tables = [read_forgetting(tmp_path / ranks).values_ST for ranks in ("one", "two")]
    assert np.abs(tables[0] - tables[1]).max() <= 100 / 12 + 1e-9  # one image of 12


def test_without_validation_images_a_fifth_of_a_set_is_classified_by_the_rest(
    root: Path, tmp_path: Path, undisturbed: tuple[Path, Forgetting]
) -> None:
    """Of noise, whose labels only a neighbour of the same image would tell."""
    config = stream_of(root, undisturbed[0]).stage(0)
    noise = list(np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8))
    write_images(tmp_path, noise, [number % 3 for number in range(20)], ("x", "y", "z"))
    value, loss = on_cpu(Asked(config, ((tmp_path, None), (root / "c", None))))
    (encoder,) = load_encoders([str(config.out)], encoder="query", seed=0, device=CPU)
    features, labels = encoder.features(open_labelled(tmp_path))
    is_out = torch.zeros(20, dtype=torch.bool)
    is_out[hashed_subset([20], 4)] = True
    bank = features[~is_out], labels[~is_out]
    found = knn_predict(*bank, features[is_out], num_classes=3, k=5)
    assert value == 100 * float((found == labels[is_out]).double().mean())
    assert np.isfinite(loss)


def test_sets_that_do_not_go_together_are_refused_before_anything_is_trained(
    root: Path, tmp_path: Path
) -> None:
    write_shard_set(tmp_path / "again", num_images=9, first_number=1004)
    stages = (root / "a", root / "b", tmp_path / "again")

    def never(_given: object) -> Any:  # noqa: ANN401
        raise AssertionError("it was begun")

    out = tmp_path / "out"
    for changes, message in (
        (
            {"stages": stages, "val": ()},
            r"again shares 9 images .*\.jpg, \.\.\.\) with .*/b: sets of",
        ),
        ({"val": [root / n for n in ("a-val", "b", "c-val")]}, "/b share 20 images .* find itself"),
        ({"val": [root / n for n in ("b", "b-val", "c-val")]}, "/b shares 20 images .* with .*/b"),
        ({"stages": (root / "a", root / "gone"), "val": ()}, "no shards at .*gone"),
    ):
        with pytest.raises(InputError, match=message):
            run_stream(stream_of(root, out, **changes), never, never)
    assert not out.exists()
    for there, message in (
        ("config.json", "taken holds a run: choose another --out"),
        ("stage-03", "stage-03 is of a longer stream: give all"),
    ):
        (tmp_path / there / "taken" / there).mkdir(parents=True)
        with pytest.raises(InputError, match=message):
            run_stream(stream_of(root, tmp_path / there / "taken"), never, never)
    with pytest.raises(InputError, match="2 --val for 3 --stages: give one for each stage, or"):
        stream_of(root, out, val=stages[:2])
    with pytest.raises(InputError, match="a stream has no --stages"):
        stream_of(root, out, stages=(), val=())
