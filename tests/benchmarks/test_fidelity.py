"""Stored maps against maps on the view, for several stored sizes, on real photographs.

Shapes: B views, G grid side, P side of a stored map, N patches.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pipeline.images.codecs import decode_saliency, encode_saliency
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.foreground import foreground
from pipeline.saliency.interface import Image, Map
from pipeline.saliency.on_view import on_view, to_grid
from pipeline.saliency.uniform import Uniform
from training.evaluate.fidelity import cut, sides
from training.views.crops import Crops, pool_saliency
from training.views.settings import ViewConfig

NUM_IMAGES, NUM_CROPS = 200, 4
SIZES = (14, 28, 56, 112)
CHOSEN = 56
VIEWS = {"224 px, 7 x 7": ViewConfig(), "64 px, 8 x 8": ViewConfig(size=64, grid=8)}

Maps = NDArray[np.float32]


class Agreement(NamedTuple):
    """Of the foregrounds of views: means over the views.

    Attributes:
        iou: intersection over union of the two foregrounds.
        auc: ranking of the view's own foreground by the stored values.
        objects: the same of the patches that lie in an object.
    """

    iou: float
    auc: float
    objects: float


def agreement(stored_BGG: Maps, own_BGG: Maps, object_BGG: NDArray[np.bool_]) -> Agreement:
    """Compare what was stored with what is computed on the views, and with where objects are."""
    ours, theirs = (
        foreground(torch.from_numpy(one)).flatten(1).numpy() for one in (stored_BGG, own_BGG)
    )
    iou = (ours & theirs).sum(1) / (ours | theirs).sum(1)
    values, objects = stored_BGG.reshape(len(ours), -1), object_BGG.reshape(len(ours), -1)
    return Agreement(float(iou.mean()), mean_auc(values, theirs), mean_auc(values, objects))


def mean_auc(values_BN: Maps, wanted_BN: NDArray[np.bool_]) -> float:
    """Views where everything or nothing is wanted have no ranking and are left out."""
    rounded = np.round(values_BN, 6)  # far below a level of 8 bits: equal values stay equal
    ranked = [one for one in zip(rounded, wanted_BN, strict=True) if 0 < one[1].mean() < 1]
    return float(np.mean([roc_auc_score(wanted_N, values_N) for values_N, wanted_N in ranked]))


def pool_stored(
    maps: Sequence[Map], images: Sequence[Image], crops: Crops, grid: int, size: int
) -> Maps:
    """What training sees of maps stored at a size."""
    levels_BPP = np.stack([decode_saliency(encode_saliency(one, size)) for one in maps])
    return pool_saliency(levels_BPP, *sides(images), crops, grid)


def pool_exactly(maps: Sequence[Map], images: Sequence[Image], crops: Crops, grid: int) -> Maps:
    """The same without storing: float maps at the images' own resolution, not 8 bit at a size."""
    pooled = []
    for number, (saliency, image) in enumerate(zip(maps, images, strict=True)):
        top, left, height, width = (int(part[number]) for part in crops[:4])
        full = cv2.resize(saliency, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        patches = to_grid(np.asarray(full[top : top + height, left : left + width]), grid)
        pooled.append(patches[:, ::-1] if crops.flip_B[number] else patches)
    return np.stack(pooled)


@pytest.mark.benchmark
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("title", VIEWS)
def test_stored_maps_against_maps_on_the_view(shared_data: Path, title: str) -> None:
    """Maps of `boundary`, and the true masks: the sharpest maps lose most by being stored."""
    folder, view = shared_data / "saliency_ecssd", VIEWS[title]
    names = sorted(path.stem for path in (folder / "images").iterdir())
    images, masks = [], []
    for name in names[:: max(1, len(names) // NUM_IMAGES)][:NUM_IMAGES]:
        image = cv2.imread(str(folder / "images" / f"{name}.jpg"), cv2.IMREAD_COLOR_RGB)
        mask = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        images.append(np.asarray(image, np.uint8))
        masks.append((np.asarray(mask) > 127).astype(np.float32))
    source, rows = Boundary(), defaultdict[str, list[Agreement]](list)
    whole, look, flat = source(images), on_view(source), Uniform()(images)
    for epoch in range(NUM_CROPS):
        views = cut(images, view, epoch)
        own = look(views.images01_B3SS, view.grid)
        exact = pool_exactly(masks, images, views.crops, view.grid)
        objects = exact > 0.5
        candidates = {
            "the view's own": own,
            "float, full size": pool_exactly(whole, images, views.crops, view.grid),
            "uniform": pool_exactly(flat, images, views.crops, view.grid),
        }
        for size in SIZES:
            candidates[f"at {size}"] = pool_stored(whole, images, views.crops, view.grid, size)
            stored = pool_stored(masks, images, views.crops, view.grid, size)
            rows[f"masks at {size}"].append(agreement(stored, exact, objects))
        for name, stored in candidates.items():
            rows[name].append(agreement(stored, own, objects))
    means = {name: Agreement(*np.mean(parts, axis=0).tolist()) for name, parts in rows.items()}
    print(f"\n{title}: {len(images)} photographs x {NUM_CROPS} crops (scale 0.2 to 1)")
    for name, mean in means.items():
        print(f"  {name:<20} IoU {mean.iou:.3f}, AUC {mean.auc:.3f}, objects {mean.objects:.3f}")
    chosen, best = means[f"at {CHOSEN}"], means["float, full size"]
    # half a hundredth is far less than what another draw of colours changes
    assert chosen.iou > best.iou - 0.005
    assert chosen.auc > best.auc - 0.005
    assert means["the view's own"].iou == 1
    assert means["uniform"].auc == 0.5
    assert chosen.objects > means["the view's own"].objects
    assert means[f"masks at {CHOSEN}"].iou > 0.95
    assert means[f"masks at {CHOSEN}"].objects > 0.99


def test_a_stored_map_is_warped_as_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((112, 168), (224, 112))]
    maps = [np.asarray(cv2.resize(rng.random((4, 4)), (112, 112)), np.float32) for _ in images]
    crops = cut(images, ViewConfig(size=56, grid=7), 0).crops
    assert crops.flip_B.any()
    stored = pool_stored(maps, images, crops, 7, 112)
    assert np.allclose(stored, pool_exactly(maps, images, crops, 7), atol=0.01)
