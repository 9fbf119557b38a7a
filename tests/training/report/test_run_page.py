import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.saliency.mask_generator import load_generator
from pipeline.shardset.manifest import load_dataset_info, write_dataset_info
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from tests.training.report.pages import page_of
from training.config.derived import stream_config
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig
from training.data.stream import BatchDataset
from training.encoders.settings import EncoderConfig
from training.record.contact_sheet import shown_views
from training.report.feature_map import flattened
from training.report.run_masks import Redrawn, shown_epochs
from training.report.run_page import charts
from training.report.state import read_run
from training.views.fills import fill_named
from training.views.inputs import build_inputs
from training.views.settings import LearnedConfig, MaskConfig
from training.views.spec import with_generator


def config_of(root: Path) -> PretrainConfig:
    encoder = EncoderConfig(architecture="timm:test_efficientnet", stem="standard")
    return small_run(root / "train", root / "run", encoder=encoder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    for name, number, first in (("train", 20, 0), ("val", 12, 100)):
        info = write_shard_set(root / name, num_images=number, first_number=first)
        write_dataset_info(root / name, replace(info, class_names=("cat", "dog", "<i>")))
    run(config_of(root))
    return root


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """The run alone, to be spoiled."""
    return shutil.copytree(done / "run", tmp_path / "run")


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def labels(redrawn: Redrawn) -> list[str]:
    """What stands below the pictures of two samples at two epochs; shares by hand."""
    titles = {"query": "query", "key": "key", "negative-key-0": "hard negative"}
    found = []
    for sample in redrawn.whole.sample_ids(0)[:2].tolist():
        found += ["image", "saliency"]
        for inputs, row in filter(None, (redrawn.views(sample, epoch) for epoch in (0, 1))):
            for view in redrawn.views_shown:
                shares = "unmasked"
                if view.name in inputs.masks:
                    mask_CHW = inputs.masks[view.name][row].numpy()
                    marked = inputs.foreground[view.crop.name][row].numpy()
                    front = np.kron(marked, np.ones((8, 8))) > 0  # 4 x 4 patches of 32 x 32 pixels
                    means = (100 * mask_CHW[:, where].mean() for where in (front, ~front))
                    shares = "{:.0f}/{:.0f} %".format(*means)
                found.append(f"{titles[view.name]}, {shares}")
    return found


def test_a_finished_run_has_all_its_parts(done: Path) -> None:
    page, state = page_of(done / "run", images=12), read_run(done / "run")
    assert page.summary.startswith(
        "timm:test_efficientnet by moco_v2, finished: 2 epochs in 4 steps."
    )
    loss, knn = list(page["learning"].charts.items())[:2]
    assert loss[0].startswith("Loss, nats")
    assert [trace["name"] for trace in loss[1]["data"]] == ["loss", "log(queue + 1)"]
    untrained = next(entry["knn"] for entry in state.entries if "knn" in entry)
    assert knn[0] == "kNN accuracy (weighted, top-1), %"
    assert f"For comparison, untrained: {float(untrained):.4g}" in knn[1]["alt"]
    assert len(page["speed"].charts) == 2
    assert "Cosine similarity of a query to" in page["telemetry"].charts
    assert page.facts["images"] == "20"
    assert len(page["masks"].cards) == 2
    assert page["masks"].labels == labels(Redrawn(state))  # one epoch left one sample out
    assert page["masks"].text.count("left it out") == 1
    (drawn,) = page["map"].charts.values()
    assert [trace["name"] for trace in drawn["data"]] == ["cat", "dog", "&lt;i&gt;"]
    assert [trace["hovertext"] for trace in drawn["data"]] == [
        ["cat"] * 4,
        ["dog"] * 4,
        ["&lt;i&gt;"] * 4,
    ]
    changed, every = page["settings"].tables
    assert ("batch_size", "8", "256") in changed
    assert not [row for row in changed if row[0].startswith("simclr")]
    assert len(every) > len(changed)
    assert ("checkpoints at steps", "2, 4") in page["provenance"].tables[0]

    assert state.config == config_of(done)
    (chart,) = charts(state, {"Accuracy": {"instance_accuracy": "own key"}})
    recorded = [e["instance_accuracy"] for e in state.entries if "instance_accuracy" in e]
    assert recorded
    assert list(chart.figure.data[0].y) == recorded
    assert charts(state, {"Nothing": {"not_recorded": "nothing"}}) == []
    rates = [8 / float(e["images_per_second"]) for e in state.entries if "images_per_second" in e]
    steps = [int(e["step"]) for e in state.entries if "images_per_second" in e]
    assert state.seconds_in_steps == pytest.approx(np.diff(steps, prepend=0) @ rates)


@pytest.mark.parametrize(
    ("strategy", "fill", "behaviour"),
    [
        ("balanced", "mean", "paper"),
        ("shuffled", "high_pass", "paper"),
        ("balanced", "high_pass", "released"),
    ],
)
def test_masks_are_drawn_as_they_were(done: Path, strategy: str, fill: str, behaviour: str) -> None:
    state = read_run(done / "run")
    assert state.config is not None
    masks = MaskConfig(strategy=strategy, behaviour=behaviour)  # type: ignore[arg-type]
    config = replace(state.config, masks=masks, fill=fill)
    info = load_dataset_info(config.shards)
    views = shown_views(config)[:3]
    stream = replace(stream_config(config), views=views)
    data = BatchDataset(config.shards, info, stream, rank=0, world_size=1)
    step = 3  # the second step of the second epoch
    seen = build_inputs(data[step], views, masks=masks, fill=fill_named(fill))
    redrawn = Redrawn(replace(state, config=config))
    for row in (0, 7):
        found = redrawn.views(int(data.sample_ids(step)[row]), epoch=1)
        assert found is not None
        inputs, place = found
        assert torch.equal(inputs.views["query"][place], seen.views["query"][row])
        for view in ("query", "negative-key-0"):
            assert torch.equal(inputs.masks[view][place], seen.masks[view][row])


def test_learned_masks_are_those_of_the_newest_generator(done: Path, tmp_path: Path) -> None:
    learned = LearnedConfig(start_epoch=1, ramp_epochs=0, mix=1.0)
    masks = MaskConfig(strategy="learned", learned=learned, query_ratio=(0.5, 0.5))
    config = replace(config_of(done), out=tmp_path / "run", masks=masks, knn=KnnConfig())
    run(config)
    state = read_run(config.out)
    redrawn, generator = Redrawn(state), load_generator(config.out)
    stream = replace(stream_config(config), views=redrawn.views_shown)
    data = BatchDataset(
        config.shards, load_dataset_info(config.shards), stream, rank=0, world_size=1
    )
    for step, mix in ((0, 0.0), (3, 1.0)):  # of either epoch
        views = with_generator(redrawn.views_shown, generator, mix)
        seen = build_inputs(data[step], views, masks=masks, fill=fill_named("mean"))
        assert int(seen.masks["query"][:, 0, ::8, ::8].sum()) == 8 * 8
        for row in (0, 7):
            found = redrawn.views(int(data.sample_ids(step)[row]), epoch=step // 2)
            assert found is not None
            assert torch.equal(found[0].masks["query"][found[1]], seen.masks["query"][row])
    text = page_of(config.out, map_images=0)["masks"].text
    assert "Learned masks are by the generator of step 4" in text
    assert "generator of step" not in page_of(done / "run", map_images=0)["masks"].text
    (config.out / "generator.pth").unlink()
    text = page_of(config.out, map_images=0)["masks"].text
    assert "cannot be drawn again: there is no mask generator at" in text


def test_epochs_are_spread_over_what_was_trained(done: Path) -> None:
    state = read_run(done / "run")
    assert shown_epochs(state) == [0, 1]
    long: list[dict[str, float | str]] = [{"step": step, "kind": "train"} for step in (1, 21)]
    assert shown_epochs(replace(state, entries=long)) == [0, 3, 7, 10]
    assert shown_epochs(replace(state, entries=[])) == [0]


def test_an_unfinished_run(copied: Path) -> None:
    path = copied / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= 2]
    warning = {"step": 2, "kind": "warning", "message": "next to no spread"}
    path.write_text("\n".join([*lines, json.dumps(warning)]) + '\n{"step": 4, "ki')
    page = page_of(copied, map_images=0)
    assert "unfinished: the record ends at epoch 1.00 of 2 (step 2 of 4)" in page.summary
    assert "At step 2: next to no spread" in page["learning"].text
    assert "left out (--map-images 0)" in page["map"].text
    path.unlink()
    shutil.rmtree(copied / "backbone")
    new = page_of(copied)
    assert new.summary.endswith("nothing was recorded yet.")
    assert "Nothing was recorded yet" in new["speed"].text
    assert "has not exported a backbone" in new["map"].text


def test_shards_that_are_gone_or_others(copied: Path) -> None:
    rewrite(copied, data_digest="0" * 64)
    page = page_of(copied, map_images=0)
    assert "holds other shards than the run was trained on" in page["masks"].text
    assert "holds other shards" in page["provenance"].text
    rewrite(copied, shards="/gone/shards", knn={"val_shards": "/gone/val"})
    page = page_of(copied)
    assert "finished: 2 epochs in 4 steps" in page.summary
    assert "cannot be drawn again: no shards at /gone/shards" in page["masks"].text
    assert "There is no map: no shards at /gone/val" in page["map"].text
    shutil.rmtree(copied / "backbone")
    assert "4 steps recorded; the total is not known" in page_of(copied).summary


def test_no_knn_and_settings_of_another_version(copied: Path) -> None:
    path = copied / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(e) + "\n" for e in entries if e["kind"] == "train"))
    rewrite(copied, knn={"val_shards": None}, novelty=3)
    page = page_of(copied)
    assert "No kNN was measured" in page["learning"].text
    assert "another version recorded the settings" in page["masks"].text
    assert "has no labelled shards" in page["map"].text
    assert page.facts["last kNN"] == "not measured"


def test_a_damaged_sample_costs_itself(copied: Path, done: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(done / "train", tmp_path / "train")
    for tar in (shards / "shards").iterdir():
        data = tar.read_bytes()
        tar.write_bytes(re.sub(rb"\xff\xd8\xff.{297}", bytes(300), data, flags=re.DOTALL))
    rewrite(copied, shards=str(shards))
    (copied / "damaged.jsonl").write_text('{"step": 1, "reason": "no <image>"}\n{"step": 2')
    page = page_of(copied, map_images=0)
    assert "cannot be shown: sample picture" in page["masks"].text
    assert "2 damaged samples were met" in page["provenance"].text
    assert page["provenance"].tables[1][1:] == [("1", "no <image>"), ("", '{"step": 2')]
    recorded = json.loads((copied / "config.json").read_text())
    del recorded["epochs"]
    (copied / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(InputError, match=r"config.json is damaged: it has no 'epochs'"):
        page_of(copied)


def test_principal_components_keep_the_widest_spread() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)) * np.array([1, 9, 1, 4, 1, 1])
    places, note = flattened(features, "pca")
    centred = features - features.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, [-1, -2]]
    assert np.allclose(np.abs(places), np.abs(expected))
    assert f"{100 * values[-2:].sum() / values.sum():.1f} %" in note
    assert np.array_equal(flattened(features, "pca")[0], places)


def test_t_sne_where_it_is_installed() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    groups = np.concatenate([rng.normal(size=(10, 8)), rng.normal(size=(10, 8)) + 30])
    places, _ = flattened(groups, "tsne")
    apart = np.linalg.norm(places[:10].mean(axis=0) - places[10:].mean(axis=0))
    assert apart > places[:10].std(axis=0).max()
