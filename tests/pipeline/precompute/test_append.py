"""What `--append` adds, and what it leaves alone."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import Builder, run_precompute
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from tests.picture_folders import contents, write_pictures


def write_more(data: Path, label: str, *numbers: int) -> None:
    (data / label).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (40, 44, 3), dtype=np.uint8)
        assert cv2.imwrite(str(data / label / f"more {number}.png"), pixels)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures, and the finished set of them in four shards."""
    root = tmp_path_factory.mktemp("made")
    write_pictures(root / "data", 10)
    run_precompute(config_of(root))
    return root


def config_of(root: Path) -> PrecomputeConfig:
    return PrecomputeConfig(data=root / "data", out=root / "out", shard_images=3, saliency="centre")


@pytest.fixture
def config(made: Path, tmp_path: Path) -> PrecomputeConfig:
    """An append to a copy of the set."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return replace(config_of(tmp_path), append=True)


def samples(out: Path) -> list[tuple[str, int]]:
    reader = ShardSetReader(out, load_dataset_info(out))
    read = [reader.read(number) for number in range(reader.num_samples)]
    return [(sample.key, sample.label) for sample in read]


def test_new_images_become_new_shards_and_nothing_else_changes(
    config: PrecomputeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before, numbered = contents(out), samples(out)
    write_more(tmp_path / "data", "class_1", 1, 2, 3)
    write_more(tmp_path / "data", "a new class", 4)
    info = run_precompute(config)
    assert "10 images that the set has already, and 4 images" in capsys.readouterr().out
    after = contents(out)
    del before["dataset.json"]
    assert {name: after[name] for name in before} == before
    assert [shard.num_images for shard in info.shards] == [3, 3, 3, 1, 3, 1]
    assert load_dataset_info(out) == info
    check_shards(out, info)
    assert samples(out)[:10] == numbered
    assert sorted(label for _, label in samples(out)[10:]) == [1, 1, 1, 3]
    assert info.class_names == ("class_0", "class_1", "class_2", "a new class")
    assert run_precompute(config) == info  # nothing is new any more
    assert contents(out) == after


def test_another_folder_may_be_appended_and_again(config: PrecomputeConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    numbered = samples(out)
    for number in (1, 2):
        write_more(tmp_path / f"more{number}", "class_2", number)
        run_precompute(replace(config, data=tmp_path / f"more{number}"))
    assert samples(out)[:10] == numbered
    assert len(samples(out)) == 12
    # each part is mended from its own data
    whole = contents(out)
    shards = sorted((out / "shards").iterdir())
    for broken, data in ((shards[1], "data"), (shards[4], "more1"), (shards[5], "more2")):
        broken.unlink()
        run_precompute(replace(config, data=tmp_path / data))
        assert contents(out) == whole
    shards[0].write_bytes(b"")
    (out / "dataset.json").unlink()
    run_precompute(replace(config, append=False))  # as the set was begun
    assert contents(out) == whole
    (out / "manifest" / shards[4].with_suffix(".parquet").name).unlink()
    with pytest.raises(InputError, match=r"appended shards shard-000004 to shard-000004 some are"):
        run_precompute(replace(config, append=False))


def test_labels_have_to_fit(config: PrecomputeConfig, tmp_path: Path) -> None:
    before = contents(tmp_path / "out")
    write_more(tmp_path / "flat", ".", 1)
    with pytest.raises(InputError, match=r"has class labels, and what is appended has none: more"):
        run_precompute(replace(config, data=tmp_path / "flat"))
    assert contents(tmp_path / "out") == before
    unlabelled = replace(config, out=tmp_path / "flat out", data=tmp_path / "flat", append=False)
    run_precompute(unlabelled)
    write_more(tmp_path / "labelled", "x", 2)
    info = run_precompute(replace(unlabelled, data=tmp_path / "labelled", append=True))
    assert (info.num_images, info.class_names) == (2, ())


def killed_after(*numbers: int) -> Builder:
    """Makes some shards of a run, until it is killed."""

    def build(jobs: Sequence[ShardJob]) -> Iterator[BuiltShard]:
        for number in numbers:
            yield ensure_shard(jobs[number])
        raise KeyboardInterrupt

    return build


def test_a_killed_append_leaves_the_old_set_and_goes_on(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    old, numbered = load_dataset_info(out), samples(out)
    shutil.copytree(tmp_path / "data", tmp_path / "first")
    write_more(tmp_path / "data", "class_0", *range(8))
    shutil.copytree(out, tmp_path / "undisturbed")
    run_precompute(replace(config, out=tmp_path / "undisturbed"))
    with pytest.raises(KeyboardInterrupt):
        run_precompute(config, killed_after(1))
    assert load_dataset_info(out) == old  # what training sees
    assert samples(out) == numbered
    run_precompute(replace(config, append=False, data=tmp_path / "first"))
    assert load_dataset_info(out) == old  # the old set can be mended meanwhile
    assert run_precompute(config) == load_dataset_info(tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_an_append_that_was_begun_is_finished_first(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    write_more(tmp_path / "data", "class_0", 1, 2, 3, 4)
    with pytest.raises(KeyboardInterrupt):
        run_precompute(config, killed_after(0, 1))
    (tmp_path / "data" / "class_0" / "more 2.png").unlink()
    words = r"append of other images \(class_0/more 2\.png is gone\).* remove plan-001\.json"
    with pytest.raises(InputError, match=words):
        run_precompute(config)
    (tmp_path / "out" / "plan-001.json").unlink()
    info = run_precompute(config)  # given up, and begun anew
    assert info.num_images == 13
    names = {path.stem for path in (tmp_path / "out" / "shards").iterdir()}
    assert names == {shard.name for shard in info.shards}


def test_what_does_not_fit_is_refused(config: PrecomputeConfig, tmp_path: Path) -> None:
    before = contents(tmp_path / "out")
    write_more(tmp_path / "data", "class_0", 1)
    with pytest.raises(InputError, match=r"other settings \(saliency_size: 56 -> 28\)"):
        run_precompute(replace(config, saliency_size=28))
    with pytest.raises(InputError, match=r"more 1\.png is new\).*--append"):
        run_precompute(replace(config, append=False))
    with pytest.raises(InputError, match="adds to a finished set, and there is none"):
        run_precompute(replace(config, out=tmp_path / "nowhere"))
    victim = tmp_path / "data" / "class_1" / "picture 1.png"
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"class_1/picture 1\.png is in the set with other bytes"):
        run_precompute(config)
    assert contents(tmp_path / "out") == before
    path = tmp_path / "out" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plan_digest": "other"}))
    with pytest.raises(InputError, match=r"dataset\.json belongs to no plan beside it"):
        run_precompute(config)
