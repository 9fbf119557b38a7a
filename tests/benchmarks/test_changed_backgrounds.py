"""Objects on other backgrounds: the object stays, the background is another class's."""

from pathlib import Path

import cv2
import numpy as np

from tests.benchmarks.changed_backgrounds import change_backgrounds, inpainted

COLOURS = {"blue": (200, 40, 40), "green": (40, 200, 40)}
"""BGR of each class's backgrounds."""


def test_objects_stand_on_the_other_class(tmp_path: Path) -> None:
    """White squares of 24 of 64 pixels a side on one colour a class; one fills its picture."""
    for kind, colour in COLOURS.items():
        for number in range(3):
            picture, mask = np.full((64, 64, 3), colour, np.uint8), np.zeros((64, 64), np.uint8)
            side = 60 if number == 2 else 24
            mask[2 : 2 + side, 2 : 2 + side] = 255
            picture[mask > 0] = 255
            for name, pixels, suffix in (("images", picture, "jpg"), ("masks", mask, "png")):
                path = tmp_path / name / kind / f"{number}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), pixels)
    out, again = tmp_path / "changed", tmp_path / "again"
    for folder in (out, again):
        assert change_backgrounds(tmp_path / "images", tmp_path / "masks", folder) == 4
    for file in out.rglob("*.png"):
        picture = np.asarray(cv2.imread(str(file)))
        (other,) = (colour for kind, colour in COLOURS.items() if kind != file.parent.name)
        # JPEG of quality 95 moves colours by a few levels where a block holds an edge.
        assert np.abs(picture[8:16, 8:16].astype(int) - 255).max() <= 10
        assert np.abs(picture[40:, 40:].astype(int) - other).max() <= 10
        assert (again / file.relative_to(out)).read_bytes() == file.read_bytes()
    assert not list(out.rglob("2.png"))


def test_a_hole_is_filled_from_around() -> None:
    picture = np.full((40, 40, 3), 90, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 255
    picture[mask > 0] = 255
    # Telea's weighted means of gradients stray by up to 3 levels.
    assert np.abs(inpainted(picture, mask).astype(int) - 90).max() <= 4
