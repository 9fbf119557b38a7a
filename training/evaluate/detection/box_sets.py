"""Open sets of images with boxes: VOC or COCO, a pair of them, or a split of one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.image_names import has_image_suffix
from training.evaluate.detection.annotations import BoxSet, checked
from training.evaluate.detection.readers import read_coco, read_voc
from training.randomness.draws import sample_seeds

ANNOTATIONS = "Annotations"


def open_boxes(root: Path, classes: Sequence[str] = ()) -> BoxSet:
    """Open annotations by what the path is, and check them; InputError names the first bad one.

    Args:
        root: a COCO file (`.json`); VOC's folder of XML files; VOC's image list
            (`ImageSets/Main/NAME.txt`); or a folder that holds one of the first two.
        classes: names that may occur; empty: those of COCO's file, or all that occur.
    """
    path, names = _annotations_at(root), tuple(classes)
    if path.suffix == ".json":
        found, known = read_coco(path)
        names = names or known
    elif path.suffix == ".txt":
        found = read_voc(_voc_of(path), [line.split()[0] for line in _lines(path)])
    else:
        found = read_voc(path)
    boxes = [box for one in found for box in one.boxes]
    if all(box.ignored for box in boxes):
        raise InputError(
            f"{root} annotates no box (crowds and difficult objects do not count): wanted images "
            "with boxes around objects"
        )
    names = names or tuple(sorted({box.name for box in boxes}))
    (file, times), *_ = Counter(one.file for one in found).most_common(1)
    if times > 1:
        raise InputError(f"{path}: {file} is annotated twice")
    pictures = tuple(checked(one, names) for one in sorted(found, key=lambda one: one.file))
    num_left_out = 0
    if path.suffix != ".txt":  # a list leaves out images on purpose
        files = {one.file for one in found}
        beside = {file for folder in {file.parent for file in files} for file in folder.iterdir()}
        num_left_out = sum(has_image_suffix(file.name) for file in beside - files)
    return BoxSet(root, names, pictures, num_left_out)


def box_pair(
    train_root: Path,
    val_root: Path,
    *,
    classes: Sequence[str] = (),
    val_share: float = 0.0,
    seed: int = 0,
) -> tuple[BoxSet, BoxSet]:
    """Open two sets whose labels mean the same; split one that is named twice.

    Raises:
        InputError: other class names; the same images twice; a share without a set to split, or
            a set to split without a share; and what `open_boxes` raises.
    """
    if train_root == val_root:
        return split(open_boxes(train_root, classes), val_share, seed=seed)
    if val_share:
        raise InputError(
            f"detection.val_share {val_share:g} splits one set, but --train and --val name two: "
            "name one twice, or leave the share away"
        )
    train, val = open_boxes(train_root, classes), open_boxes(val_root, classes)
    if train.class_names != val.class_names:
        differing = sorted(set(train.class_names) ^ set(val.class_names)) or ["their order"]
        raise InputError(
            f"the classes of {train_root} and {val_root} differ ({', '.join(differing)}): a label "
            "would mean two things; name all of them with --detection.classes"
        )
    learned, scored = ({one.file.resolve() for one in images.pictures} for images in (train, val))
    if learned & scored or train.digest == val.digest:
        first = min(learned & scored, default=train.pictures[0].file)
        raise InputError(
            f"{train_root} and {val_root} share images, such as {first.name}: name other images "
            "to validate on"
        )
    return train, val


def split(images: BoxSet, val_share: float, *, seed: int) -> tuple[BoxSet, BoxSet]:
    """Split a set by chance: the same images for every checkpoint and every machine.

    Raises InputError for a share outside (0, 1), or one that leaves a part without boxes.
    """
    if not 0 < val_share < 1:
        raise InputError(
            f"--train and --val name the same images, {images.root}: give "
            "--detection.val-share 0.2 to split them, or name two sets"
        )
    order = np.argsort(sample_seeds(seed, 0, np.arange(images.num_images)), kind="stable")
    num_val = round(val_share * images.num_images)
    train, val = (
        replace(images, pictures=tuple(images.pictures[number] for number in np.sort(part)))
        for part in (order[num_val:], order[:num_val])
    )
    if not train.num_boxes or not val.num_boxes:
        raise InputError(
            f"detection.val_share {val_share:g} of {images.num_images} images leaves "
            f"{train.num_boxes} boxes to learn from and {val.num_boxes} to be scored on"
        )
    return train, val


def _annotations_at(root: Path) -> Path:
    """The JSON file, the image list or the folder of XML files that a path means."""
    if root.is_file() and root.suffix in (".json", ".txt"):
        return root
    if not root.is_dir():
        raise InputError(
            f"{root} is no folder, COCO file (.json) or VOC image list (.txt) of images with boxes"
        )
    if any(root.glob("*.xml")):
        return root
    choices = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    choices += [root / ANNOTATIONS] if any(root.glob(f"{ANNOTATIONS}/*.xml")) else []
    if len(choices) != 1:
        found = f"has {' and '.join(map(str, choices))}: name one" if choices else "has neither"
        raise InputError(
            f"{root} {found} (wanted {ANNOTATIONS}/*.xml of VOC, or one .json of COCO)"
        )
    return choices[0]


def _lines(image_list: Path) -> list[str]:
    lines = [line for line in image_list.read_text().splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{image_list} names no images")
    return lines


def _voc_of(image_list: Path) -> Path:
    """The folder of XML files that an image list is for: the nearest one above it."""
    for folder in image_list.parents:
        if (folder / ANNOTATIONS).is_dir():
            return folder / ANNOTATIONS
    raise InputError(f"no folder {ANNOTATIONS} above the image list {image_list}")
