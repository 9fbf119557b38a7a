import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.core.errors import InputError
from training.record.metrics import WARNING, MetricsLog, latest_values, read_metrics


def write_steps(folder: Path, steps: list[int], resume_step: int = 0) -> list[float | str]:
    """Writes a line for each step and returns the steps of the record."""
    log = MetricsLog(folder, resume_step=resume_step)
    for step in steps:
        log.write(step=step, kind="train", values={"loss": 10.0 - step})
    log.close()
    return [entry["step"] for entry in read_metrics(folder)]


def test_a_resumed_record_forgets_what_comes_again_and_a_new_run_everything(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert write_steps(tmp_path, [2, 4, 6, 8]) == [2, 4, 6, 8]
    assert write_steps(tmp_path, [6, 8, 10], resume_step=5) == [2, 4, 6, 8, 10]
    path.write_text(path.read_text()[:-5])  # a line that a crash cut off
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [2, 4, 6, 8]
    assert write_steps(tmp_path, [12], resume_step=11) == [2, 4, 6, 8, 12]
    assert write_steps(tmp_path, [2]) == [2]


def test_latest_values_are_the_last_of_each_kind(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, resume_step=0)
    log.write(step=1, kind="eval", values={"knn": 30.0})
    log.write(step=1, kind="train", values={"loss": 3.0})
    log.write(step=2, kind="train", values={"loss": 2.0}, notes={"samples_seen": "0a"})
    log.message(step=2, kind=WARNING, message="it has collapsed")
    log.close()
    assert read_metrics(tmp_path)[-2:] == [
        {"step": 2, "kind": "train", "loss": 2.0, "samples_seen": "0a"},
        {"step": 2, "kind": "warning", "message": "it has collapsed"},
    ]
    assert latest_values(tmp_path) == {"knn": 30.0, "loss": 2.0}


@pytest.mark.parametrize("deleted", ["", "tensorboard"])
def test_a_deleted_record_ends_the_run(tmp_path: Path, deleted: str) -> None:
    log = MetricsLog(tmp_path / "run", resume_step=0)
    log.write(step=1, kind="train", values={"loss": 3.0})
    log._board.flush()  # else TensorBoard's thread writes while the folder is deleted
    shutil.rmtree(tmp_path / "run" / deleted)
    with pytest.raises(InputError, match=f"run/.*{deleted} was deleted while this run"):
        log.write(step=2, kind="train", values={"loss": 3.0})
    log.close(finished=False)


def test_the_board_shows_a_picture_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sheet.png")
    log = MetricsLog(tmp_path, resume_step=0)
    log.picture(step=3, name="masks", path=tmp_path / "sheet.png")
    log.close()
    (shown,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("masks")
    assert (shown.step, shown.width, shown.height) == (3, 7, 5)
    assert shown.encoded_image_string == (tmp_path / "sheet.png").read_bytes()
