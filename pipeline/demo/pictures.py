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
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from pipeline.demo.backgrounds import FAMILIES, background, smooth_noise
from pipeline.demo.objects import (
    OBJECTS,
    SHARE_OF_PICTURE,
    litter,
    place_object,
    shaded_surface,
    soft_shadow,
)

KINDS = tuple(sorted(OBJECTS))
SPLITS = ("train", "usual", "changed")
TYPICAL_SHARE = 0.9
# Raised whenever the same parameters would give other pictures.
DRAWING_VERSION = 6
JPEG_QUALITY = 92
HUE_SPREAD = 25.0  # degrees; the kinds' typical hues are 45 apart
# Degrees: far apart for neighbours, and nowhere the hue of the kind's own objects.
PLACE_HUES = tuple((150 + 135 * place) % 360 for place in range(len(KINDS)))
PLACE_HUE_SPREAD = 25.0
PLACE_SATURATION = (0.15, 0.5)
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn picture.

    Attributes:
        pixels: uint8 [H, W, 3], BGR.
        mask: uint8 [H, W], 255 on the object, 0 elsewhere.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def make_demo_pictures(
    out: Path,
    *,
    num_train: int = 3200,
    num_usual: int = 2000,
    num_changed: int = 2000,
    seed: int = 0,
    size: int = 64,
    object_share: tuple[float, float] = SHARE_OF_PICTURE,
    num_processes: int = 1,
) -> None:
    """Write `out/pictures/{train,usual,changed}/KIND/NNNN.jpg` and `out/masks/...` (.png).

    A kind has a typical background. Nine of ten objects of `train` and `usual` stand on theirs, the
    others, and all of `changed`, on one drawn independently of the kind.

    A complete set (`out/demo.json`, written last) of the same parameters is kept as it is, an
    unfinished one is made again.

    Args:
        out: folder of the set.
        num_train: pictures to train with, a multiple of the number of kinds.
        num_usual: pictures to evaluate with, typical backgrounds, likewise.
        num_changed: pictures to evaluate with, any backgrounds, likewise.
        seed: what all draws derive from; no picture is the same under another one.
        size: mean side in pixels, >= 48; sides vary by up to 10 %.
        object_share: least and largest share of a picture that its object covers, in (0, 0.4]
            (0.03, 0.1 for small objects).
        num_processes: that draw at once, 1 or more.

    Raises:
        InputError: a count, the seed, the size or the shares cannot be used, or `out` holds
            something else.
    """
    counts = dict(zip(SPLITS, (num_train, num_usual, num_changed), strict=True))
    for split, count in counts.items():
        if count < len(KINDS) or count % len(KINDS):
            raise InputError(
                f"num_{split} is {count}: it must be a positive multiple of {len(KINDS)},"
                " the number of kinds"
            )
    if num_processes < 1:
        raise InputError(f"num_processes is {num_processes}: it must be 1 or more")
    if seed < 0:
        raise InputError(f"seed is {seed}: it must not be negative")
    if size < 48:
        raise InputError(f"size is {size}: it must be at least 48 pixels")
    if not 0 < object_share[0] <= object_share[1] <= 0.4:
        raise InputError(f"object_share is {object_share}: wanted 0 < least <= largest <= 0.4")
    wanted: dict[str, object] = {f"num_{split}": count for split, count in counts.items()}
    wanted |= {"seed": seed, "size": size, "object_share": list(object_share)}
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
    draw = partial(_write_picture, out, seed, size, object_share)
    with ExitStack() as open_pool:
        drawn: Iterable[None] = map(draw, numbers)
        if num_processes > 1:
            pool = ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"))
            drawn = open_pool.enter_context(pool).map(draw, numbers, chunksize=100)
        for _ in track(drawn, "drawing", len(numbers), "pictures"):
            pass
    (out / "unfinished.json").write_text(json.dumps(wanted, indent=1) + "\n")
    (out / "unfinished.json").replace(out / "demo.json")


def _write_picture(
    out: Path,
    seed: int,
    size: int,
    object_share: tuple[float, float],
    numbered: tuple[str, int],
) -> None:
    split, number = numbered
    cv2.setNumThreads(1)  # small pictures: more threads only wait for each other
    kind, rng = KINDS[number % len(KINDS)], picture_rng(seed, split, number)
    picture = draw_picture(kind, rng, size, split=split, object_share=object_share)
    name, quality = f"{split}/{kind}/{number:04d}", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    write(out / "pictures" / f"{name}.jpg", cv2.imencode(".jpg", picture.pixels, quality))
    write(out / "masks" / f"{name}.png", cv2.imencode(".png", picture.mask))


def picture_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The source of all draws of one picture: a function of these three alone."""
    return np.random.default_rng([seed, SPLITS.index(split), number])


def is_complete(out: Path, wanted: dict[str, object]) -> bool:
    """Whether `out` holds this very set, finished; refuses a folder that holds another thing."""
    for name in ("demo.json", "unfinished.json"):
        file = out / name
        if not file.exists():
            continue
        try:
            found = json.loads(file.read_text())["digest"]
        except (ValueError, KeyError, TypeError):
            found = None
        if found != wanted["digest"]:
            raise InputError(
                f"{out} holds demo pictures of other parameters ({name}): remove the folder or"
                " choose another one"
            )
        if name == "demo.json":
            return True
    if not (out / "unfinished.json").exists() and out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no demo pictures: choose another folder")
    return False


def draw_picture(
    kind: str,
    rng: np.random.Generator,
    size: int,
    *,
    split: str = "changed",
    object_share: tuple[float, float] = SHARE_OF_PICTURE,
) -> Picture:
    """One object of a kind over a background, sides within 10 % of `size`.

    Args:
        kind: of object, one of `KINDS`.
        rng: source of the draws.
        size: mean side in pixels.
        split: `train` and `usual`: nine of ten backgrounds are typical of the kind; `changed`: all
            are drawn independently of it.
        object_share: least and largest share of the picture.
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
    a background; the background's lightness keeps away from the object's.

    Args:
        kind: number of the object's kind.
        place: number of the kind whose typical background it is.
        rng: source of the draws.
    """
    dark = rng.random() < 0.5
    low, high = ((0.18, 0.55), (0.65, 1.0)) if dark else ((0.62, 0.98), (0.3, 0.8))
    hue = PLACE_HUES[place] + rng.normal(0, PLACE_HUE_SPREAD)
    saturation, value = rng.uniform(*PLACE_SATURATION), rng.uniform(*low)
    behind = [
        (
            (hue + rng.normal(0, 25)) % 360,
            saturation,
            np.clip(value + rng.normal(0, 0.1), 0.05, 1),
        )
        for _ in range(3)
    ]
    own = 360 * kind / len(KINDS) + rng.normal(0, HUE_SPREAD)
    front = [
        (own % 360, rng.uniform(0.5, 0.95), rng.uniform(*high)),
        ((own + rng.normal(0, HUE_SPREAD)) % 360, rng.uniform(0.3, 0.9), rng.uniform(*high)),
    ]
    hsv = np.array([behind + front], np.float32)
    bgr = (cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0] * 255).astype(np.float32)
    return bgr[:3], bgr[3:]


def write(path: Path, encoded: tuple[bool, NDArray[np.uint8]]) -> None:
    """Write what `cv2.imencode` returned."""
    done, data = encoded
    assert done, f"OpenCV could not encode {path.name}"
    path.write_bytes(data.tobytes())
