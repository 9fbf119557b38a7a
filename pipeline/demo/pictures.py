"""Demo pictures: objects of eight kinds over textured backgrounds, with ground-truth masks.

A kind is a form with a surface and a range of hues of its own, as fruit and animals have them.
Size, place, rotation, shading, light and background are drawn from the same distributions for every
kind. Everything about a picture is a pure function of (seed, split, kind, number).

Shapes: H W pixels.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.backgrounds import background, smooth_noise
from pipeline.demo.objects import OBJECTS, place_object, shaded_surface, soft_shadow
from pipeline.errors import InputError
from pipeline.progress import track

KINDS = tuple(sorted(OBJECTS))
# Raised whenever the same parameters would give other pictures.
DRAWING_VERSION = 5
JPEG_QUALITY = 92
HUE_SPREAD = 25.0  # degrees; the kinds' typical hues are 45 apart
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
    out: Path, *, num_train: int = 1600, num_val: int = 400, seed: int = 0, size: int = 160
) -> None:
    """Write `out/pictures/{train,val}/<kind>/*.jpg` and `out/masks/...` with the same names.

    A complete set (`out/demo.json`, written last) of the same parameters is kept as it is, an
    unfinished one is made again.

    Args:
        out: folder of the set.
        num_train: pictures to train with, a multiple of the number of kinds.
        num_val: pictures to evaluate with, a multiple of the number of kinds.
        seed: what all draws derive from.
        size: mean side in pixels, >= 64; sides vary by up to 10 %.

    Raises:
        InputError: a count, the seed or the size cannot be used, or `out` holds something else.
    """
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if count < len(KINDS) or count % len(KINDS):
            raise InputError(
                f"{name} is {count}: it must be a positive multiple of {len(KINDS)},"
                " the number of kinds"
            )
    if seed < 0:
        raise InputError(f"seed is {seed}: it must not be negative")
    if size < 64:
        raise InputError(f"size is {size}: it must be at least 64 pixels")
    parameters = {"num_train": num_train, "num_val": num_val, "seed": seed, "size": size}
    wanted: dict[str, object] = parameters | {"version": DRAWING_VERSION, "kinds": list(KINDS)}
    wanted["digest"] = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    if is_complete(out, wanted):
        return
    cv2.setNumThreads(1)  # small pictures: more threads only wait for each other
    # From here on a set that stops half-way is recognised by its unfinished.json.
    out.mkdir(parents=True, exist_ok=True)
    (out / "unfinished.json").write_text(json.dumps(wanted) + "\n")
    for folder in ("pictures", "masks"):
        shutil.rmtree(out / folder, ignore_errors=True)
    drawn = [
        (split_number, split, kind_number, kind, number)
        for split_number, (split, count) in enumerate((("train", num_train), ("val", num_val)))
        for kind_number, kind in enumerate(KINDS)
        for number in range(1, count // len(KINDS) + 1)
    ]
    for split_number, split, kind_number, kind, number in track(
        drawn, "drawing", len(drawn), "pictures"
    ):
        pictures, masks = out / "pictures" / split / kind, out / "masks" / split / kind
        pictures.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, split_number, kind_number, number])
        picture = draw_picture(kind, rng, size)
        name = f"{kind}-{number:04d}"
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        write(pictures / f"{name}.jpg", cv2.imencode(".jpg", picture.pixels, quality))
        write(masks / f"{name}.png", cv2.imencode(".png", picture.mask))
    (out / "unfinished.json").write_text(json.dumps(wanted, indent=1) + "\n")
    (out / "unfinished.json").replace(out / "demo.json")


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


def draw_picture(kind: str, rng: np.random.Generator, size: int) -> Picture:
    """One object of a kind over a background, sides within 10 % of `size`."""
    height, width = (round(size * rng.uniform(0.9, 1.1)) for _ in range(2))
    behind, colour = draw_colours(kind, rng)
    scene = background(rng, height, width, behind)
    # From the light's side, so that shading and shadow of one picture agree.
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), np.sin(angle)], np.float32)
    mask = place_object(kind, rng, height, width)
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


def draw_colours(kind: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Three colours for the background [3, 3] and two for the object [2, 3], BGR in 0..255.

    A kind has a typical hue, from which its objects stray into those of its neighbours; the
    background is near grey, and its lightness keeps away from the object's.
    """
    dark = rng.random() < 0.5
    low, high = ((0.18, 0.55), (0.65, 1.0)) if dark else ((0.62, 0.98), (0.3, 0.8))
    hue, saturation, value = rng.uniform(0, 360), rng.uniform(0.02, 0.16), rng.uniform(*low)
    behind = [
        (
            (hue + rng.normal(0, 25)) % 360,
            saturation,
            np.clip(value + rng.normal(0, 0.1), 0.05, 1),
        )
        for _ in range(3)
    ]
    typical = 360 * KINDS.index(kind) / len(KINDS)
    own = typical + rng.normal(0, HUE_SPREAD)
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
