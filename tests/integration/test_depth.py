"""Five channels of 16 bits, and grey of 12, from precompute over pretraining to the export."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import salmask
import torch
from numpy.typing import NDArray

from pipeline.backbone.folder import load_info
from pipeline.backbone.image_encoder import load_image_encoder
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import build_locally
from pipeline.precompute.run import build_here, run_precompute
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from tests.runs import NETWORK, numbers, run, small_run
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.encoders.settings import EncoderConfig
from training.engine.preflight import preflight
from training.evaluate.config import EvaluateConfig
from training.evaluate.run import evaluate
from training.methods.simclr.settings import SimCLRConfig

CLASSES, SIDE, GREATEST = 4, 40, 4095
Picture = Callable[[int, np.random.Generator], NDArray[np.uint16]]
SIGNATURES = np.array([[9, 2, 6, 2, 4], [2, 9, 2, 6, 4], [6, 2, 2, 9, 4], [2, 6, 9, 2, 4]]) / 10


def five_channels(label: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """A disc of the class's spectrum on ground of any spectrum."""
    ground = rng.uniform(0.1, 0.9, 5) + rng.normal(0, 0.1, (SIDE, SIDE, 5))
    return _with_disc(ground, SIGNATURES[label], rng)


def grey(label: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """A disc with stripes across, down, both or none, on ground and in light of any strength."""
    ground = rng.uniform(0.1, 0.9) + rng.normal(0, 0.05, (SIDE, SIDE, 1))
    wave = np.sign(np.sin(np.arange(SIDE) + rng.uniform(0, 6)))
    across, down = wave[:, None], wave[None]
    stripes = (across, down, across * down, np.zeros((SIDE, SIDE)))[label % 4] + 0 * ground[..., 0]
    disc = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.3) * stripes
    return _with_disc(ground, disc[..., None], rng)[..., 0]


def _with_disc(
    ground: NDArray[np.float64], disc: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint16]:
    x, y = rng.uniform(14, SIDE - 14, 2)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    inside = ((rows - y) ** 2 + (columns - x) ** 2 < 12**2)[..., None]
    values = np.where(inside, disc * rng.uniform(0.7, 1.0), ground)
    return (values.clip(0, 1) * GREATEST).astype(np.uint16)


def precompute(root: Path, picture: Picture, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("shards", 96), ("val", 64)):
        data = root / "images" / name
        rule = ("auto",) if name == "shards" else ("like", str(root / "shards"))
        for number in range(count):
            values = picture(number % CLASSES, rng)
            file = data / f"class {number % CLASSES}" / f"{number}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "npy":
                np.save(file, values)
            else:
                assert cv2.imwrite(str(file), values)
        config = PrecomputeConfig(data=data, out=root / name, range=rule, shard_images=64)
        run_precompute(config, build_locally if name == "shards" else build_here)


@pytest.mark.parametrize(("picture", "suffix"), [(five_channels, "npy"), (grey, "png")])
def test_from_precompute_to_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Picture, suffix: str
) -> None:
    channels = 5 if suffix == "npy" else 3
    precompute(tmp_path, picture, suffix)
    info = load_dataset_info(tmp_path / "shards")
    assert info.pixels.integers == ((0.0, 4096.0),) * channels
    config = small_run(
        tmp_path / "shards",
        tmp_path / "run",
        epochs=10,
        batch_size=16,
        encoder=EncoderConfig(architecture=NETWORK),
        fill="blur",
        method=SimCLRConfig(batch_norm_group=16),
        optim=OptimConfig(lr=0.03, warmup_epochs=1),
        knn=KnnConfig(val_shards=tmp_path / "val", every_epochs=10, k=5),
        checkpoint=CheckpointConfig(keep=1),
    )
    if channels == 5:
        with pytest.raises(InputError, match=r"high_pass, .* is for RGB, .* 5 channels"):
            preflight(replace(config, fill="high_pass"), 1)
    assert run(config).finished
    assert (tmp_path / "run" / "contact_sheet.png").is_file()
    before, after = (float(entry["knn"]) for entry in numbers(tmp_path / "run") if "knn" in entry)
    assert after > before, (before, after)
    evaluation = EvaluateConfig(
        train=tmp_path / "shards",
        val=tmp_path / "val",
        checkpoint=(str(tmp_path / "run"),),
        protocol=("knn",),
        results=tmp_path / "results",
        k=5,
    )
    (figure,) = evaluate(evaluation, torch.device("cpu"))
    assert figure.figure == pytest.approx(after)

    folder = tmp_path / "run" / "backbone"
    exported = load_info(folder)
    assert exported.pixels == info.pixels
    seen_by = exported.preprocessing
    assert (seen_by.mean, seen_by.std) == info.pixels.normalisation
    file = next((tmp_path / "images" / "val").rglob(f"0.{suffix}"))
    values = np.load(file) if suffix == "npy" else cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert values is not None
    low, high = np.array(exported.pixels.integers).T
    levels = np.floor(256 * (np.atleast_3d(values) - low) / (high - low)).astype(np.uint8)
    reader = ShardSetReader(tmp_path / "val", load_dataset_info(tmp_path / "val"))
    seen = [reader.read_image(number) for number in range(reader.num_samples)]
    assert any(np.array_equal(image, levels) for image in seen)
    # The card's code, in plain Python.
    code = (folder / "README.md").read_text().split("```python\n")[1].partition("```")[0]
    monkeypatch.chdir(folder)
    exec(code, known := dict[str, Any]())
    encoder, image = load_image_encoder(folder), torch.from_numpy(levels).permute(2, 0, 1)
    with torch.no_grad():
        features = known["network"](encoder.preprocess(image)[None])
        torch.testing.assert_close(features, encoder(image))
    # Files have the features of their shards, in the run's range; webdataset has the same pixels.
    (stored, names), (read, files) = (
        salmask.embed(folder, tmp_path / place) for place in ("val", "images/val")
    )
    np.testing.assert_allclose(
        stored[[names.index(name) for name in files]], read, rtol=1e-4, atol=1e-4
    )
    theirs = [sample.image for sample in salmask.ShardSet(tmp_path / "val").as_webdataset()]
    assert all(map(np.array_equal, theirs, seen))
