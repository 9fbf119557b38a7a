"""Put the objects of labelled photographs on inpainted backgrounds of other classes.

Shapes: H W pixels.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.boundary import Boundary

Picture = NDArray[np.uint8]
OBJECT_SHARES = (0.03, 0.7)
"""Of a photograph: a smaller object is lost at 48 pixels, a larger one leaves no background."""
LARGEST_HOLE = 0.5
"""Share of a photograph that is inpainted at most."""
SEED = 0


def change_backgrounds(images: Path, masks: Path, out: Path, seed: int = SEED) -> int:
    """Write `out/CLASS/STEM.png` for every photograph whose object has a usable share.

    Reads `images/CLASS/STEM.jpg` and `masks/CLASS/STEM.png`, above 127 on the object. Returns how
    many pictures there are. A set that is there is kept.
    """
    if out.is_dir():
        return len(list(out.glob("*/*.png")))
    files = sorted(images.glob("*/*.jpg"))
    pairs = {file: read_mask(masks / file.parent.name / f"{file.stem}.png") for file in files}
    shares = {file: float(mask.mean()) / 255 for file, mask in pairs.items()}
    grounds = [file for file in files if 0 < shares[file] <= LARGEST_HOLE]
    rng, aside = np.random.default_rng(seed), out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    for file in files:
        if not OBJECT_SHARES[0] <= shares[file] <= OBJECT_SHARES[1]:
            continue
        others = [ground for ground in grounds if ground.parent.name != file.parent.name]
        ground = others[int(rng.integers(len(others)))]
        picture = composed(
            read_picture(file), pairs[file], inpainted(read_picture(ground), pairs[ground])
        )
        (aside / file.parent.name).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(aside / file.parent.name / f"{file.stem}.png"), picture)
    aside.rename(out)
    return len(list(out.glob("*/*.png")))


def inpainted(picture: Picture, mask: Picture) -> Picture:
    """The picture [H, W, 3] without its object (mask [H, W], above 127), filled from around it."""
    hole = cv2.dilate((mask > 127).astype(np.uint8), np.ones((7, 7), np.uint8))
    return cv2.inpaint(picture, hole, 3, cv2.INPAINT_TELEA).astype(np.uint8)


def composed(picture: Picture, mask: Picture, ground: Picture) -> Picture:
    """The object of one picture [H, W, 3] before another one, with an edge a pixel soft."""
    height, width = mask.shape
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    alpha = cv2.GaussianBlur(np.where(mask > 127, 1, 0).astype(np.float32), (0, 0), 0.8)[..., None]
    return np.rint(ground + alpha * (picture.astype(np.float32) - ground)).astype(np.uint8)


def mark_objects(images: Path, out: Path) -> None:
    """Write `out/CLASS/STEM.png`: where the `boundary` saliency is above its Otsu threshold."""
    source = Boundary()
    for file in sorted(images.glob("*/*.jpg")):
        path = out / file.parent.name / f"{file.stem}.png"
        if path.exists():
            continue
        picture = read_picture(file)
        (found,) = source([np.ascontiguousarray(picture[..., ::-1])])
        levels = np.rint(255 * found / max(float(found.max()), 1e-6)).astype(np.uint8)
        large = cv2.resize(levels, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        _, mask = cv2.threshold(large, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), mask)


def read_picture(file: Path) -> Picture:
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
    assert picture is not None, f"{file} cannot be read"
    return np.asarray(picture, np.uint8)


def read_mask(file: Path) -> Picture:
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert mask is not None, f"{file} cannot be read"
    return np.asarray(mask, np.uint8)
