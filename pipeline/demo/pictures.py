"""Demo pictures: objects of eight kinds over textured backgrounds, with ground-truth masks.

A kind is a form with a surface and a range of hues of its own, as fruit and animals have them, and
it has a typical background, a texture and a range of hues, as fish have water. Size, place,
rotation, shading and light are drawn from the same distributions for every kind. Everything about a
picture is a pure function of (seed, split, number); its kind is number modulo the number of kinds.

Shapes: H W pixels.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import lru_cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from pipeline.demo.objects import (
    OBJECTS,
    SHARE_OF_PICTURE,
    Range,
    litter,
    place_object,
    shaded_surface,
    soft_shadow,
)
from pipeline.demo.textures import FAMILIES, background, smooth_noise

KINDS = tuple(sorted(OBJECTS))
SPLITS = ("train", "usual", "changed")
TYPICAL_SHARE = 0.9
# Raised whenever the same parameters would give other pictures.
DRAWING_VERSION = 6
JPEG_QUALITY = 92
SIDE = 64  # of a written picture: the mean; sides vary by up to 10 %
HUE_SPREAD = 25.0  # degrees; the kinds' typical hues are 45 apart
# Degrees: far apart for neighbours, and nowhere the hue of the kind's own objects.
PLACE_HUES = tuple((150 + 135 * place) % 360 for place in range(len(KINDS)))
PLACE_HUE_SPREAD = 25.0
PLACE_SATURATION = (0.15, 0.5)
Floats = NDArray[np.float32]


class Picture(NamedTuple):
    """Pixels uint8 [H, W, 3], BGR, and mask uint8 [H, W], 255 on the object, 0 elsewhere."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def make_demo_pictures(
    out: Path,
    *,
    num_train: int = 3200,
    num_usual: int = 2000,
    num_changed: int = 2000,
    seed: int = 0,
    object_share: Range = SHARE_OF_PICTURE,
    num_processes: int = 1,
) -> None:
    """Write `out/pictures/{train,usual,changed}/KIND/NNNN.jpg` and `out/masks/...` (.png).

    Nine of ten objects of `train` and `usual` stand on the background typical of their kind, the
    others, and all of `changed`, on one drawn independently of the kind.

    A complete set (`out/demo.json`, written last) of the same parameters is kept as it is, an
    unfinished one is made again.

    Args:
        out: folder of the set.
        num_train: pictures to train with, a multiple of the number of kinds.
        num_usual: pictures to evaluate with, typical backgrounds, likewise.
        num_changed: pictures to evaluate with, any backgrounds, likewise.
        seed: what all draws derive from; no picture is the same under another one.
        object_share: of the picture, the least and the most, above 0 and below 1.
        num_processes: how many draw at once, 1 or more.

    Raises:
        InputError: a count, a share or the seed cannot be used, or `out` holds something else.
    """
    counts = dict(zip(SPLITS, (num_train, num_usual, num_changed), strict=True))
    for split, count in counts.items():
        if count < len(KINDS) or count % len(KINDS):
            raise InputError(
                f"num_{split} is {count}: it must be a positive multiple of {len(KINDS)},"
                " the number of kinds"
            )
    if num_processes < 1 or seed < 0:
        raise InputError(f"num_processes {num_processes} must be 1 or more, seed {seed} 0 or more")
    if not 0 < object_share[0] <= object_share[1] < 1:
        raise InputError(
            f"object_share {object_share} must be two numbers between 0 and 1, the least first"
        )
    wanted: dict[str, object] = {f"num_{split}": count for split, count in counts.items()}
    wanted |= {"seed": seed, "size": SIDE, "object_share": list(object_share)}
    wanted |= {"version": DRAWING_VERSION, "kinds": list(KINDS)}
    wanted["digest"] = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    if is_complete(out, wanted):
        return
    # From here on a set that stops half-way is recognised by its unfinished.json.
    out.mkdir(parents=True, exist_ok=True)
    (out / "unfinished.json").write_text(json.dumps(wanted) + "\n")
    for folder in ("pictures", "masks"):
        shutil.rmtree(out / folder, ignore_errors=True)
        for split, kind in itertools.product(SPLITS, KINDS):
            (out / folder / split / kind).mkdir(parents=True)
    numbers = [(split, number) for split, count in counts.items() for number in range(count)]
    draw = partial(_write_picture, out, seed, object_share)
    with ExitStack() as open_pool:
        drawn: Iterable[None] = map(draw, numbers)
        if num_processes > 1:
            pool = ProcessPoolExecutor(
                num_processes, mp_context=get_context("spawn"), initializer=_end_with_parent
            )
            drawn = open_pool.enter_context(pool).map(draw, numbers, chunksize=100)
        for _ in track(drawn, "drawing", len(numbers), "pictures"):
            pass
    (out / "unfinished.json").write_text(json.dumps(wanted, indent=1) + "\n")
    (out / "unfinished.json").replace(out / "demo.json")


def _end_with_parent() -> None:
    """End this process when the one that started it ends, also where that is killed."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _write_picture(out: Path, seed: int, object_share: Range, numbered: tuple[str, int]) -> None:
    split, number = numbered
    cv2.setNumThreads(1)  # small pictures: more threads only wait for each other
    names, kind = (("pictures", "jpg"), ("masks", "png")), KINDS[number % len(KINDS)]
    encoded = encoded_picture(seed, split, number, object_share=object_share)
    for (folder, suffix), data in zip(names, encoded, strict=True):
        (out / folder / split / kind / f"{number:04d}.{suffix}").write_bytes(data)


@lru_cache(maxsize=1)  # the picture and its mask are read one after the other
def encoded_picture(
    seed: int, split: str, number: int, side: int = SIDE, object_share: Range = SHARE_OF_PICTURE
) -> tuple[bytes, bytes]:
    """A picture as a JPEG, and its mask as a PNG; sides within 10 % of `side` pixels."""
    kind, rng = KINDS[number % len(KINDS)], picture_rng(seed, split, number)
    picture = draw_picture(kind, rng, side, split=split, object_share=object_share)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    jpeg, png = cv2.imencode(".jpg", picture.pixels, quality), cv2.imencode(".png", picture.mask)
    return jpeg[1].tobytes(), png[1].tobytes()


def picture_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The source of all draws of one picture: a function of these three alone."""
    return np.random.default_rng([seed, SPLITS.index(split), number])


def is_complete(out: Path, wanted: dict[str, object]) -> bool:
    """Whether `out` holds this very set, finished; refuses a folder that holds another thing."""
    files = [out / name for name in ("demo.json", "unfinished.json") if (out / name).exists()]
    for file in files:
        try:
            found = dict(json.loads(file.read_text()))
        except (ValueError, TypeError):
            found = {}
        if found.get("digest") != wanted["digest"]:
            names = [n for n in wanted if n != "digest" and found.get(n) != wanted[n]]
            differ = ", ".join(f"{name} {found.get(name)}" for name in names)
            raise InputError(
                f"{out} holds demo pictures of other parameters ({differ}): remove the folder or "
                "choose another one"
            )
    if not files and out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no demo pictures: choose another folder")
    return (out / "demo.json") in files


def draw_picture(
    kind: str,
    rng: np.random.Generator,
    size: int,
    *,
    split: str = "changed",
    object_share: Range = SHARE_OF_PICTURE,
) -> Picture:
    """Draw one object of a kind over a background, sides within 10 % of `size`.

    In the splits `train` and `usual` nine of ten backgrounds are typical of the kind.
    """
    typical = KINDS.index(kind)
    stays = split != "changed" and rng.random() < TYPICAL_SHARE
    place = typical if stays else int(rng.integers(len(KINDS)))
    height, width = (round(size * rng.uniform(0.9, 1.1)) for _ in range(2))
    behind, colour = draw_colours(typical, place, rng)
    scene = background(rng, height, width, behind, FAMILIES[place])
    litter(rng, scene)
    # From the light's side, so that shading and shadow of one picture agree.
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    mask = place_object(kind, rng, height, width, object_share)
    alpha = mask.astype(np.float32) / 255
    surface = shaded_surface(kind, mask, colour, light, rng)
    scene *= 1 - soft_shadow(mask, light, rng)
    scene += alpha * (surface - scene)
    scene *= 1 + 0.12 * smooth_noise(rng, height, width, 2)  # uneven light
    scene += rng.uniform(1, 5) * rng.standard_normal(scene.shape, np.float32)  # sensor
    scene = developed(scene, rng)
    hard = np.where(mask > 127, np.uint8(255), np.uint8(0))
    pixels = np.clip(cv2.merge(list(scene)) + 0.5, 0, 255).astype(np.uint8)
    return Picture(pixels=pixels, mask=hard)


def developed(scene: Floats, rng: np.random.Generator) -> Floats:
    """The scene [3, H, W] as one of many cameras gives it: light, contrast, tint, black and white.

    A network that has learned to look through these tells the kinds better than one that has not.
    """
    grey = np.tensordot(np.array([0.114, 0.587, 0.299], np.float32), scene, axes=1)[None]
    saturation = 0.0 if rng.random() < 0.25 else rng.uniform(0.5, 1.5)
    scene = grey + np.float32(saturation) * (scene - grey)
    tint = np.exp(rng.normal(0, 0.15, size=(3, 1, 1))).astype(np.float32)
    contrast, light = np.float32(rng.uniform(0.45, 1.3)), np.float32(rng.uniform(0.6, 1.4))
    mean = scene.mean()
    return np.asarray((mean + contrast * (scene - mean)) * light * tint, np.float32)


def draw_colours(kind: int, place: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Three colours for the background [3, 3] and two for the object [2, 3], BGR in 0..255.

    A kind has a typical hue, from which its objects stray into those of its neighbours, and so has
    a background, here that of the kind with number `place`; the background's lightness keeps away
    from the object's.
    """
    dark = rng.random() < 0.5
    low, high = ((0.18, 0.55), (0.65, 1.0)) if dark else ((0.62, 0.98), (0.3, 0.8))
    hue = PLACE_HUES[place] + rng.normal(0, PLACE_HUE_SPREAD)
    saturation, value = rng.uniform(*PLACE_SATURATION), rng.uniform(*low)
    behind = []
    for _ in range(3):
        one_hue = (hue + rng.normal(0, 25)) % 360
        behind.append((one_hue, saturation, np.clip(value + rng.normal(0, 0.1), 0.05, 1)))
    own = 360 * kind / len(KINDS) + rng.normal(0, HUE_SPREAD)
    front = [
        (own % 360, rng.uniform(0.5, 0.95), rng.uniform(*high)),
        ((own + rng.normal(0, HUE_SPREAD)) % 360, rng.uniform(0.3, 0.9), rng.uniform(*high)),
    ]
    hsv = np.array([behind + front], np.float32)
    bgr = (cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0] * 255).astype(np.float32)
    return bgr[:3], bgr[3:]
