"""Real annotations: the same boxes from XML and JSON."""

from pathlib import Path

import numpy as np
import pytest

from training.evaluate.detection.boxes import open_boxes


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
