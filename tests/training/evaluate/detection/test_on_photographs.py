"""Real annotations: the same boxes from XML and JSON, and one step on eighty classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.evaluate.detection.test_run import TINY, export
from training.evaluate.config import EvaluateConfig
from training.evaluate.detection.box_sets import open_boxes
from training.evaluate.run import evaluate


@pytest.mark.parametrize(
    ("name", "images", "boxes", "empty"),
    [("detection_kangaroo", 163, 263, 0), ("detection_coco128", 126, 929, 2)],
)
def test_xml_and_json_agree(
    shared_data: Path, name: str, images: int, boxes: int, empty: int
) -> None:
    voc, coco = (
        open_boxes(shared_data / name / part) for part in ("Annotations", "instances.json")
    )
    assert coco.num_boxes == boxes
    assert (coco.num_images - coco.num_empty, coco.num_empty) == (images, empty)
    assert coco.num_left_out == voc.num_left_out == 0
    of_file = {one.file.name: one for one in voc.pictures}
    for one in coco.pictures:
        other = of_file[one.file.name]
        assert [box.name for box in one.boxes] == [box.name for box in other.boxes]
        if one.boxes:
            # VOC counts whole pixels.
            found, whole = (np.array([box.box for box in some.boxes]) for some in (one, other))
            np.testing.assert_allclose(found, whole, atol=1.01)


def test_the_whole_way_on_eighty_classes(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "detection_coco128" / "instances.json"
    config = EvaluateConfig(
        checkpoint=(str(export(tmp_path / "export")),),
        train=file,
        val=file,
        protocol=("detection",),
        results=tmp_path / "results",
        detection=replace(TINY, val_share=0.1),
    )
    results = evaluate(config, torch.device("cpu"))
    assert len(results[0].settings["classes"]) == 80
    assert (results[0].num_train, results[0].num_val) == (115, 13)
    assert all(0 <= one.figure <= 100 for one in results)
