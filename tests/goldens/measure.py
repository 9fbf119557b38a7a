"""Measure what the goldens hold: a small precompute, and the first steps of every recipe.

``python -m tests.goldens.measure precompute moco_v2_small ...``, or ``all``, rewrites goldens. Do
this when a change is meant to alter them, in a commit that says what changed and why.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests

import argparse
import hashlib
import importlib.metadata
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.shardset.schema import DATASET_FILE
from tests.picture_folders import contents
from tests.runs import StopsAfter, run
from tests.shard_sets import picture
from training.config.pretrain import PretrainConfig
from training.config.recipes import RECIPES, find_recipe
from training.core.schedules import cosine_lr
from training.engine import loop
from training.randomness.draws import view_number
from training.record.metrics import read_metrics
from training.record.run_record import SEEN
from training.views.inputs import EncoderInputs, build_inputs
from training.views.spec import EXCHANGED

FOLDER = Path(__file__).resolve().parent
PRECOMPUTE = "precompute"
NUM_PICTURES, STEPS, STEPS_HASHED = 48, 10, 2
LATER_RATES = 1e-3
"""The factor of all learning rates but the first step's. With those of the recipes a rounding of
one float32 grows to 10 % of the loss within ten steps, so that no tolerance would mean anything."""
LIBRARIES = (
    "numpy",
    "opencv-contrib-python-headless",
    "pillow",
    "pyarrow",
    "torch",
    "torchvision",
)
"""The libraries that decide bytes or draws, as constraints.txt names them."""


def versions() -> dict[str, str]:
    """The installed version of every library that decides a golden, and the kind of machine."""
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return found | {"machine": platform.machine()}


def processor_maker() -> str:
    """The maker of this machine's processor, as Linux names it; empty elsewhere."""
    about = Path("/proc/cpuinfo")
    text = about.read_text() if about.exists() else ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "vendor_id"), "")


def golden_file(name: str) -> Path:
    """The file of a recipe, or of ``precompute``."""
    return FOLDER / f"{name}.json"


def write_pictures(data: Path) -> None:
    """Writes JPEG pictures of three classes, drawn with integers alone: the same everywhere."""
    for number in range(NUM_PICTURES):
        folder = data / f"class_{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels, _ = picture(number)
        assert cv2.imwrite(str(folder / f"picture-{number:02d}.jpg"), pixels[..., ::-1])


def make_shards(root: Path) -> Path:
    """Writes the pictures below ``root`` and precomputes them, with labels and ``boundary`` maps.

    Returns:
        The shard set: three shards of 16 images.
    """
    write_pictures(root / "pictures")
    shards = root / "shards"
    run_precompute(
        PrecomputeConfig(
            data=root / "pictures", out=shards, saliency="boundary", labels=True, shard_images=16
        )
    )
    return shards


def measure_precompute(shards: Path) -> dict[str, Any]:
    """The digests of the pictures and of all files of their shard set, and its dataset.json.

    dataset.json names versions, so its content is kept instead of its digest, without them.
    """
    files = contents(shards)
    del files[DATASET_FILE]
    info = json.loads((shards / DATASET_FILE).read_text())
    del info["versions"]
    return {"pictures": contents(shards.parent / "pictures"), "files": files, "dataset": info}


def small_recipe(name: str, shards: Path, out: Path) -> PretrainConfig:
    """A recipe with its own masks, fill, method, augmentation and optimiser, made cheap.

    Batch, network and the sizes that follow from them are small; views of 224 px become 56 px with
    the same grid.
    """
    config = find_recipe(name)(shards, out)
    sizes = {"batch_norm_group": 4, "queue_size": 64}
    sizes = {field: size for field, size in sizes.items() if hasattr(config.method, field)}
    return replace(
        config,
        batch_size=8,
        encoder=replace(config.encoder, architecture="resnet18"),
        views=replace(config.views, size=56) if config.views.size == 224 else config.views,
        precision="fp32",
        num_workers=1,
        loader_workers=0,
        log_every_steps=1,
        method=replace(config.method, **sizes),  # type: ignore[arg-type]
    )


def measure_recipe(name: str, shards: Path, out: Path) -> dict[str, Any]:
    """The first steps of a recipe, made small, on one thread.

    Returns:
        ``samples_seen`` after the last step; ``masks`` (by the number of the view) and
        ``foreground`` of the first two steps, as sha256; ``lr``, ``rho`` and ``losses`` of all
        steps. The first step has the recipe's learning rate, the others ``LATER_RATES`` of theirs.
    """
    seen: list[EncoderInputs] = []

    def noted(*args: Any, **settings: Any) -> EncoderInputs:  # noqa: ANN401  (passed on)
        seen.append(build_inputs(*args, **settings))
        return seen[-1]

    def mostly_small(step: int, **settings: Any) -> float:  # noqa: ANN401  (passed on)
        return cosine_lr(step, **settings) * (1 if step == 0 else LATER_RATES)

    with (
        patch.object(loop, "build_inputs", noted),
        patch.object(loop, "cosine_lr", mostly_small),
        # Most of the time of a run of ten steps goes into what it measures and writes.
        patch.object(loop.Trainer, "_evaluate"),
        patch.object(loop.Trainer, "_save"),
        patch.object(loop.Trainer, "_contact_sheet"),
    ):
        run(small_recipe(name, shards, out), StopsAfter(STEPS))
    entries = [entry for entry in read_metrics(out) if entry["kind"] == "train"]
    assert [entry["step"] for entry in entries] == list(range(1, STEPS + 1))
    first = seen[:STEPS_HASHED]
    return {
        "samples_seen": entries[-1][SEEN],
        "masks": [
            {
                str(view_number(name)): _sha256(mask)
                for name, mask in sorted(inputs.masks.items(), key=lambda m: view_number(m[0]))
                if name != EXCHANGED
            }
            for inputs in first
        ],
        "foreground": [_foreground_sha256(inputs) for inputs in first],
        "lr": [entry["lr"] for entry in entries],
        "rho": [entry["rho"] for entry in entries],
        "losses": [entry["loss"] for entry in entries],
    }


def _foreground_sha256(inputs: EncoderInputs) -> str:
    """The digests of the foregrounds of all crops, one for each size of a grid."""
    found = inputs.foreground.values()
    sizes = dict.fromkeys(one.shape for one in found)
    return " ".join(_sha256(torch.stack([f for f in found if f.shape == size])) for size in sizes)


def _sha256(tensor: torch.Tensor) -> str:
    """The digest of a tensor's shape, type and values."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return hashlib.sha256(head + tensor.contiguous().numpy().tobytes()).hexdigest()


def main() -> None:
    """Rewrites the goldens that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=["all", PRECOMPUTE, *RECIPES])
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder))
        for name in (PRECOMPUTE, *RECIPES) if "all" in names else names:
            measured = (
                measure_precompute(shards)
                if name == PRECOMPUTE
                else measure_recipe(name, shards, Path(folder) / name)
            )
            golden = {"versions": versions()} | measured
            golden_file(name).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
