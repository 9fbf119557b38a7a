"""Where the images of a set of annotations lie: beside them, in one of the usual folders."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.image_names import has_image_suffix

USUAL = ("JPEGImages", "images", ".")


def image_folder(annotations: Path, names: Sequence[str], layout: str) -> Path:
    """The folder that holds most of the images.

    Looked for in `JPEGImages`, `images` and plainly, beside the annotations and one folder up; for
    COCO's `annotations/instances_train2017.json` in `train2017` as well.

    Args:
        annotations: the folder or the file of the annotations.
        names: of the images, as annotated.
        layout: of the annotations, for the message.

    Raises:
        InputError: none of these folders holds any.
    """
    beside = annotations if annotations.is_dir() else annotations.parent
    split = annotations.stem.rpartition("_")[2]
    usual = USUAL if annotations.is_dir() else (split, *USUAL)
    folders = [folder / name for folder in (beside, beside.parent) for name in usual]
    holds = {folder: sum((folder / name).is_file() for name in names) for folder in folders}
    best = max(folders, key=lambda folder: holds[folder])
    if names and not holds[best]:
        tried = ", ".join(str(folder) for folder in folders)
        raise InputError(
            f"none of the {len(names)} images that {annotations} annotates ({layout}) is there, "
            f"such as {names[0]}: looked in {tried}"
        )
    return best


def num_images_beside(folders: set[Path], annotated: set[Path]) -> int:
    """Image files in the folders that no annotation is for."""
    return sum(
        has_image_suffix(file.name) and file not in annotated
        for folder in folders
        for file in folder.iterdir()
    )
