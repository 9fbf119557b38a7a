"""Make scenes: each object on the same few backgrounds as others, to ask what an encoder looks at.

Shapes: H W pixels, N scenes, O objects of a group, B backgrounds of a group, D features.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.benchmarks.changed_backgrounds import (
    LARGEST_HOLE,
    composed,
    inpainted,
    read_mask,
    read_picture,
)

OBJECT_SHARES = (0.05, 0.4)
"""Of a picture: large enough to be seen at 48 px, and small enough to leave a background."""
NUM_BACKGROUNDS, NUM_OTHERS = 4, 7
"""Backgrounds of a group, each behind all of its objects; other objects of a group."""
SEED = 0


def make_scenes(images: Path, masks: Path, out: Path) -> Path:
    """Write `out/GROUP-OBJECT/BACKGROUND.png` for groups of eight objects and four backgrounds.

    Reads `images/STEM.jpg` and `masks/STEM.png`, above 127 on the object. The backgrounds are other
    pictures than the objects', inpainted where their own object was. A set that is there is kept.
    """
    if out.is_dir():
        return out
    files = sorted(images.glob("*.jpg"))
    pairs = {file: read_mask(masks / f"{file.stem}.png") for file in files}
    shares = {file: float((mask > 127).mean()) for file, mask in pairs.items()}
    draw = np.random.default_rng(SEED)
    shuffled = [files[i] for i in draw.permutation(len(files))]
    objects = [f for f in shuffled if OBJECT_SHARES[0] <= shares[f] <= OBJECT_SHARES[1]]
    grounds = [file for file in shuffled if 0 < shares[file] <= LARGEST_HOLE]
    aside = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    size = NUM_OTHERS + 1
    for group in range(len(objects) // size):
        chosen = objects[group * size : (group + 1) * size]
        behind = [file for file in grounds if file not in chosen]
        picks = draw.choice(len(behind), NUM_BACKGROUNDS, replace=False)
        filled = [inpainted(read_picture(behind[i]), pairs[behind[i]]) for i in picks]
        for number, file in enumerate(chosen):
            folder, picture = aside / f"{group:03d}-{number}", read_picture(file)
            folder.mkdir(parents=True)
            for place, ground in enumerate(filled):
                scene = composed(picture, pairs[file], ground)
                assert cv2.imwrite(str(folder / f"{place}.png"), scene)
    aside.rename(out)
    return out


def same_object(features_ND: Tensor, objects_N: Tensor) -> NDArray[np.bool_]:
    """Whether the same object on another background is nearer than the others on the same one.

    Takes the features of all scenes in the order of their files, and the number of each object. A
    query is a scene and one of the three other backgrounds; its candidates are the same object on
    that background and the seven other objects of the group on the query's own. Nearest by cosine;
    a tie is wrong. Returns bool [N * (B - 1)].
    """
    size, grounds = NUM_OTHERS + 1, NUM_BACKGROUNDS
    wanted = torch.arange(len(objects_N) // grounds).repeat_interleave(grounds)
    assert torch.equal(objects_N.cpu(), wanted), "scenes are not in the order of their files"
    right: list[NDArray[np.bool_]] = []
    for scenes_OBD in (
        F.normalize(features_ND.float(), dim=1).cpu().view(-1, size, grounds, features_ND.shape[1])
    ):
        # Same object: cosine to its scene on each background; same background: to each object.
        own_OBB = torch.einsum("obd,oed->obe", scenes_OBD, scenes_OBD)
        others_OBO = torch.einsum("obd,pbd->obp", scenes_OBD, scenes_OBD)
        others_OBO.diagonal(dim1=0, dim2=2).fill_(-torch.inf)
        found_OBB = own_OBB > others_OBO.max(dim=2, keepdim=True).values
        is_other_BB = ~torch.eye(grounds, dtype=torch.bool)
        right.append(found_OBB[:, is_other_BB].numpy().ravel())
    return np.concatenate(right)
