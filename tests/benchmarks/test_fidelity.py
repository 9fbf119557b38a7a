"""Stored maps against maps on the view, for several stored sizes, on real photographs.

The localiser sees the normalised, colour-augmented, unfiltered view. `SALMASK_BACKBONE` names the
folder of an exported backbone to be looked at besides random weights.
"""

import os
from collections import defaultdict
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline.saliency.boundary import Boundary
from pipeline.saliency.centre import Centre
from pipeline.saliency.interface import Image, Map, SaliencySource, centre_prior
from pipeline.saliency.on_view import on_view
from pipeline.saliency.scda import Scda
from pipeline.saliency.uniform import Uniform
from tests.benchmarks.fidelity import (
    Agreement,
    agreement,
    cut,
    pool_exactly,
    pool_stored,
)
from training.views.settings import ViewConfig

NUM_IMAGES = int(os.environ.get("SALMASK_FIDELITY_IMAGES", "200"))
NUM_CROPS = 4
SIZES = (14, 28, 56, 112)
CHOSEN = 56
VIEWS = {"224 px, 7 x 7": ViewConfig(), "64 px, 8 x 8": ViewConfig(size=64, grid=8)}
FINER_SIDE = 448

Table = dict[str, list[Agreement]]


def scda(side: int, edges: str = "zero") -> dict[str, Scda]:
    """The networks that are looked at: random, and one's own where there is one."""
    found = {"random": Scda(weights="random", network="resnet18", side=side, edges=edges)}  # type: ignore[arg-type]
    if own := os.environ.get("SALMASK_BACKBONE"):
        found["own"] = Scda(weights=own, side=side, edges=edges)  # type: ignore[arg-type]
    return found


def cases() -> dict[str, tuple[SaliencySource, dict[str, SaliencySource]]]:
    """By name: the source on whole images and on views, and others to store instead."""
    found: dict[str, tuple[SaliencySource, dict[str, SaliencySource]]] = {
        "boundary": (Boundary(), {})
    }
    for edges in ("zero", "reflect"):
        finer = scda(FINER_SIDE, edges)
        for name, source in scda(224, edges).items():
            other = {f"float, full size, from {FINER_SIDE} px": finer[name]}
            found[f"scda, {name} weights, edges {edges}"] = (source, dict(other))
    return found


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> tuple[list[Image], list[Map]]:
    """Images and the masks of their objects."""
    folder = shared_data / "saliency_ecssd"
    names = sorted(path.stem for path in (folder / "images").iterdir())
    images, masks = [], []
    for name in names[:: max(1, len(names) // NUM_IMAGES)][:NUM_IMAGES]:
        image = cv2.imread(str(folder / "images" / f"{name}.jpg"), cv2.IMREAD_COLOR_RGB)
        mask = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        images.append(np.asarray(image, np.uint8))
        masks.append((np.asarray(mask) > 127).astype(np.float32))
    return images, masks


def measure(
    images: list[Image],
    masks: list[Map],
    source: SaliencySource,
    others: dict[str, SaliencySource],
    view: ViewConfig,
) -> tuple[dict[str, Agreement], dict[str, float]]:
    """Agreement and mean bytes of everything that could be stored, by name."""
    rows: Table = defaultdict(list)
    num_bytes: dict[str, float] = {}
    look = on_view(source)
    maps = source(images)
    others = {**others, "the image's centre": Centre(), "uniform": Uniform()}
    other_maps = {name: other(images) for name, other in others.items()}
    for epoch in range(NUM_CROPS):
        views = cut(images, view, epoch)
        own = look(views.images01_B3SS, view.grid)
        objects = pool_exactly(masks, images, views.crops, view.grid) > 0.5
        candidates = {"the view's own": own}
        for size in SIZES:
            name = f"stored at {size} x {size}"
            candidates[name], num_bytes[name] = pool_stored(
                maps, images, views.crops, view.grid, size
            )
        for name, whole in {"float, full size": maps, **other_maps}.items():
            candidates[name] = pool_exactly(whole, images, views.crops, view.grid)
        recoloured = look(views.recoloured01_B3SS, view.grid)
        candidates["same crop in other colours"] = recoloured
        in_view = centre_prior(view.grid, view.grid, 0.5)
        candidates["the view's centre"] = np.repeat(in_view[None], len(images), 0)
        for name, stored in candidates.items():
            rows[name].append(agreement(stored, own, objects))
    means = {
        name: Agreement(*np.mean([astuple(part) for part in parts], axis=0).tolist())
        for name, parts in rows.items()
    }
    return means, num_bytes


@pytest.mark.benchmark
@pytest.mark.parametrize("name", list(cases()))
def test_stored_maps_against_maps_on_the_view(
    photographs: tuple[list[Image], list[Map]], name: str
) -> None:
    torch.set_num_threads(1)
    source, others = cases()[name]
    tables = {title: measure(*photographs, source, others, view) for title, view in VIEWS.items()}
    num_bytes = next(iter(tables.values()))[1]
    print(f"\n{name}: {len(photographs[0])} photographs x {NUM_CROPS} crops (scale 0.2 to 1)")
    print(
        f"  {'':32}{'bytes':>7}" + "".join(f" |{title:>15}: IoU   AUC objects" for title in VIEWS)
    )
    for row in next(iter(tables.values()))[0]:
        cells = (table[row] for table, _ in tables.values())
        text = "".join(f"{cell.iou:22.3f} {cell.auc:5.3f}{cell.objects:8.3f}" for cell in cells)
        print(f"  {row:32}{round(num_bytes[row]) if row in num_bytes else '':>7}{text}")
    for rows, _ in tables.values():
        chosen, best = rows[f"stored at {CHOSEN} x {CHOSEN}"], rows["float, full size"]
        # half a hundredth is far less than what another draw of colours changes
        assert chosen.iou > best.iou - 0.005
        assert chosen.auc > best.auc - 0.005
        assert rows["the view's own"].iou == 1
        assert rows["uniform"].auc == 0.5
        if name == "boundary":
            assert chosen.objects > rows["the view's own"].objects


@pytest.mark.benchmark
def test_stored_masks_against_the_masks(photographs: tuple[list[Image], list[Map]]) -> None:
    """The sharpest maps there are lose most by being stored."""
    images, masks = photographs
    print(f"\nmasks: {len(images)} photographs x {NUM_CROPS} crops (scale 0.2 to 1)")
    print(
        f"  {'':32}{'bytes':>7}" + "".join(f" |{title:>15}: IoU   AUC objects" for title in VIEWS)
    )
    for size in SIZES:
        text, num_bytes = "", 0.0
        for view in VIEWS.values():
            parts = []
            for epoch in range(NUM_CROPS):
                crops = cut(images, view, epoch).crops
                exact = pool_exactly(masks, images, crops, view.grid)
                pooled, num_bytes = pool_stored(masks, images, crops, view.grid, size)
                parts.append(astuple(agreement(pooled, exact, exact > 0.5)))
            cell = Agreement(*np.mean(parts, axis=0).tolist())
            text += f"{cell.iou:22.3f} {cell.auc:5.3f}{cell.objects:8.3f}"
            if size == CHOSEN:
                assert cell.iou > 0.95
                assert cell.objects > 0.99
        print(f"  {f'stored at {size} x {size}':32}{num_bytes:7.0f}{text}")


def test_agreement_by_hand() -> None:
    rng = np.random.default_rng(0)
    stored, own = (rng.random((5, 7, 7)).astype(np.float32) for _ in range(2))
    objects = rng.random((5, 7, 7)) < 0.2
    ious, aucs, object_aucs = [], [], []
    for ours, theirs, wanted in zip(stored.astype(float), own.astype(float), objects, strict=True):
        a = ours >= ours.mean() - 0.6 * ours.std()
        b = theirs >= theirs.mean() - 0.6 * theirs.std()
        ious.append(np.logical_and(a, b).sum() / np.logical_or(a, b).sum())
        aucs.append(roc_auc_score(b.ravel(), ours.ravel()))
        object_aucs.append(roc_auc_score(wanted.ravel(), ours.ravel()))
    expected = [np.mean(ious), np.mean(aucs), np.mean(object_aucs)]
    # values within a millionth of each other count as equal
    assert astuple(agreement(stored, own, objects)) == pytest.approx(expected, abs=1e-4)
    same = agreement(own, own, objects)
    assert (same.iou, same.auc) == (1, 1)
    nothing = np.zeros((2, 7, 7), np.bool_)
    nothing[0, 0] = True  # the second view has nothing to rank
    assert agreement(stored[:2], own[:2], nothing) == Agreement(
        agreement(stored[:2], own[:2], objects[:2]).iou,
        agreement(stored[:2], own[:2], objects[:2]).auc,
        agreement(stored[:1], own[:1], nothing[:1]).objects,
    )


def test_a_stored_map_is_warped_as_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((112, 168), (224, 112))]
    maps = [np.asarray(cv2.resize(rng.random((4, 4)), (112, 112)), np.float32) for _ in images]
    view = ViewConfig(size=56, grid=7)
    crops = cut(images, view, 0).crops
    assert crops.flip_B.any()
    stored, _ = pool_stored(maps, images, crops, 7, 112)
    assert np.allclose(stored, pool_exactly(maps, images, crops, 7), atol=0.01)
