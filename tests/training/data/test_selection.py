"""A run on a selection: its order, its record, its resume, and selections that are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import load_dataset_info
from tests.runs import StopsAfter, numbers, run, small_run
from tests.shard_sets import write_shard_set
from tests.training.views.made import dataset_of, settings_of, views_of
from training.config.file import read_config_file
from training.config.settings import KnnConfig
from training.data.order import EpochOrder
from training.data.selection import SELECTION_FILE, Selection, read_selection, write_selection
from training.report.state import read_run

SIZES = (7, 16, 1, 16, 9, 16)
CHOSEN = np.array([0, 6, 23, 24, 30, 39, *range(49, 60)])  # none of the second and the fifth shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "shards"
    write_shard_set(root, num_images=42, shard_images=9)
    return root


def select(shards: Path, folder: Path, chosen: list[int]) -> Selection:
    table = pa.table({"number": pa.array(chosen, pa.int64())})
    return write_selection(folder, table, {"pool": load_dataset_info(shards).plan_digest})


@pytest.mark.parametrize("window", [1, 2, 16])
def test_an_epoch_visits_every_chosen_image_once_and_no_shard_without_one(window: int) -> None:
    order = EpochOrder(SIZES, seed=1, epoch=2, window=window, chosen=CHOSEN)
    whole = order.sample_ids(0, len(CHOSEN))
    assert sorted(whole) == CHOSEN.tolist()
    assert sorted(order.shards_from(0, 6)) == [0, 2, 3, 5]
    for start in (0, 5, 9):
        part = EpochOrder(SIZES, seed=1, epoch=2, window=window, chosen=CHOSEN)
        np.testing.assert_array_equal(part.sample_ids(start, start + 8), whole[start : start + 8])
    later = EpochOrder(SIZES, seed=1, epoch=3, window=window, chosen=CHOSEN)
    assert (later.sample_ids(0, len(CHOSEN)) != whole).any()
    every = EpochOrder(SIZES, seed=1, epoch=2, window=window, chosen=np.arange(65))
    plain = EpochOrder(SIZES, seed=1, epoch=2, window=window)
    np.testing.assert_array_equal(every.sample_ids(0, 65), plain.sample_ids(0, 65))


def test_the_global_batch_is_the_same_for_any_number_of_ranks(shards: Path, tmp_path: Path) -> None:
    chosen = [*range(3, 21), 40]
    select(shards, tmp_path, chosen)
    views = views_of(settings_of())
    alone = dataset_of(shards, views, selection=tmp_path)
    for world_size in (2, 4):
        ranks = [
            dataset_of(shards, views, rank=r, world_size=world_size, selection=tmp_path)
            for r in range(world_size)
        ]
        assert {one.steps_per_epoch for one in (*ranks, alone)} == {2}
        for epoch in (0, 1):
            steps = range(2 * epoch, 2 * epoch + 2)
            together = [np.concatenate([r.sample_ids(step) for r in ranks]) for step in steps]
            assert np.array_equal(together, [alone.sample_ids(step) for step in steps])
            seen = np.concatenate(together).tolist()
            assert len(set(seen)) == 16
            assert set(seen) <= set(chosen)


def test_a_run_records_its_selection_and_goes_on_with_no_other(
    shards: Path, tmp_path: Path
) -> None:
    digest = select(shards, tmp_path / "chosen", list(range(20))).digest
    config = small_run(shards, tmp_path / "whole", knn=KnnConfig(), log_every_steps=1)
    config = replace(config, selection=tmp_path / "chosen")
    assert run(config).step == 4
    record = json.loads((config.out / "config.json").read_text())
    assert (record["chosen_digest"], record["selection"]) == (digest, str(tmp_path / "chosen"))
    read = read_config_file(config.out / "config.json", shards=Path("x"), out=config.out)
    assert read == config
    assert not read_run(config.out).problems
    # Broken off in mid-epoch, and gone on with where the selection lies now.
    broken = replace(config, out=tmp_path / "broken")
    run(broken, StopsAfter(1))
    (tmp_path / "chosen").rename(tmp_path / "moved")
    assert run(replace(broken, selection=tmp_path / "moved")).finished
    assert numbers(broken.out) == numbers(config.out)
    select(shards, tmp_path / "chosen", list(range(1, 21)))
    for other in (tmp_path / "chosen", None):
        with pytest.raises(InputError, match=rf"other settings .chosen_digest: {digest} -> "):
            run(replace(config, selection=other))
    assert "is another selection than the run" in str(read_run(config.out).problems)


def test_selections_that_do_not_fit_are_refused_in_a_line(shards: Path, tmp_path: Path) -> None:
    select(shards, tmp_path / "few", [1, 2, 3])
    other = tmp_path / "other"
    write_shard_set(other, num_images=20, first_number=100)
    select(other, tmp_path / "others", list(range(20)))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / SELECTION_FILE).write_bytes(b"PAR1")
    (tmp_path / "foreign").mkdir()
    wide = pa.table({f"c{number}": [1] for number in range(12)})
    pq.write_table(wide, tmp_path / "foreign" / SELECTION_FILE)
    for name, message in (
        ("few", "few of .*shards holds 3 images, fewer than one global batch of 8"),
        ("others", "others is of another pool .plan digest .* than --shards: give"),
        ("gone", "gone has no selection .jobs/choose.py makes one.: "),
        (f"few/{SELECTION_FILE}", "selection.parquet is a file: give the folder that"),
        ("torn", "torn has no selection .jobs/choose.py makes one.: "),
        ("foreign", r"the columns of its selection\.parquet are c0, .*, c9 and 2 more$"),
    ):
        config = small_run(shards, tmp_path / "run", knn=KnnConfig(), selection=tmp_path / name)
        with pytest.raises(InputError, match=message) as raised:
            run(config)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"selection .* and data_fraction 0\.5: give one of them"):
        small_run(shards, tmp_path / "run", selection=tmp_path, data_fraction=0.5)
    assert not (tmp_path / "run").exists()
    assert len(read_selection(tmp_path / "few").numbers) == 3
