"""Made pictures as a source: those of the demo, with exact masks, through a whole precompute."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from jobs.cli import absolute_paths
from pipeline.core.errors import InputError
from pipeline.demo.pictures import KINDS, make_demo_pictures
from pipeline.images.source_image import decode_source
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.shardset.reader import ShardSetReader
from pipeline.sources.listing import SourceOptions
from pipeline.sources.registry import open_source
from pipeline.sources.synthetic import SyntheticStore
from pipeline.storage.store import StoreError


def store(**changes: object) -> SyntheticStore:
    given = {"n": 9, "seed": 2, "side": 64, "split": "train"} | changes
    return SyntheticStore(**given)  # type: ignore[arg-type]


def test_the_pictures_and_masks_are_the_demos_own_byte_for_byte(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path, num_train=8, num_usual=8, num_changed=8, seed=2)
    for split in ("train", "changed"):
        made = store(split=split)
        for number in range(8):
            name, kind = made.name(number), KINDS[number]
            file = tmp_path / "pictures" / split / kind / f"{number:04d}.jpg"
            mask = tmp_path / "masks" / split / kind / f"{number:04d}.png"
            assert made.read(name) == file.read_bytes()
            assert made.read(name.replace(".jpg", ".png")) == mask.read_bytes()


def test_a_picture_is_a_function_of_its_name() -> None:
    made, name = store(), store().name(5)
    data = made.read(name)
    assert made.read(name, 3, 10) == data[3:13]
    assert (made.read(name, 7), made.size(name)) == (data[7:], len(data))
    assert len(list(made.names())) == len(set(made.names())) == 9
    for other in (store(seed=3), store(side=96), store(split="usual")):
        assert other.name(5) != name
        assert other.read(other.name(5)) != data
        with pytest.raises(FileNotFoundError):
            other.read(name)
    assert made.size("made/star/5.jpg") is None
    assert decode_source(store(side=96).read(store(side=96).name(0))).pixels.shape[0] in range(
        86, 107
    )
    with pytest.raises(StoreError, match=r"synthetic:n=9,.* cannot be changed"):
        made.new_file("x")
    with pytest.raises(StoreError, match="cannot be changed"):
        made.remove("x")
    assert made.sweep() == 0


def test_precompute_takes_the_exact_masks(tmp_path: Path) -> None:
    config = PrecomputeConfig(data="synthetic:n=20", out=tmp_path / "set", shard_images=8)
    assert (config.saliency, config.mask_column) == ("external", "exact")
    info = run_precompute(config)
    assert (info.num_images, len(info.shards), info.class_names) == (20, 3, KINDS)
    reader, made = ShardSetReader(tmp_path / "set", info), store(n=20, seed=0)
    masks = {}
    for number in range(20):
        data, mask = (made.read(made.name(number).replace(".jpg", end)) for end in (".jpg", ".png"))
        masks[data] = np.asarray(Image.open(BytesIO(mask)))
    for number in range(20):
        sample = reader.read(number)
        mask_HW = masks.pop(bytes(sample.image)).astype(np.float32)
        _, saliency = reader.read_pixels(number)
        wanted = cv2.resize(mask_HW, saliency.shape, interpolation=cv2.INTER_AREA)
        assert np.abs(saliency - wanted).max() <= 1.5
    assert run_precompute(config).plan_digest == info.plan_digest
    with pytest.raises(InputError, match="was begun with"):
        run_precompute(PrecomputeConfig(data="synthetic:n=20,seed=1", out=tmp_path / "set"))


def test_other_saliency_and_no_labels_can_be_asked_for(tmp_path: Path) -> None:
    data = "synthetic:n=9,split=changed"
    plain = PrecomputeConfig(data=data, out=tmp_path, saliency="centre", labels=False)
    assert (plain.saliency, plain.mask_column) == ("centre", "")
    rows = list(open_source(data, plain.source_options).rows)
    assert [sorted(row) for row in rows if row] == [["num_bytes", "source"]] * 9
    assert PrecomputeConfig(data=tmp_path, out=tmp_path).saliency == "boundary"
    assert absolute_paths(plain, "data", "out").data == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("synthetic:", "is not understood at '': wanted synthetic:n=20000, and after commas"),
        ("synthetic:seed=1", "does not say how many"),
        (
            "synthetic:n=0",
            r"at 'n=0': .*n 1 or more, seed 0 or more, side 16 or more; train, usual",
        ),
        ("synthetic:n=8,n=12", "n=8,n=12 has n twice"),
        ("synthetic:n=8,split=val", "at 'split=val'"),
        ("synthetic:n=8,kind=star", "at 'kind=star'"),
    ],
)
def test_what_cannot_be_made_is_said(data: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(data, SourceOptions())
    with pytest.raises(InputError, match="--image-column x: synthetic pictures have no columns"):
        open_source("synthetic:n=8", SourceOptions(image_column="x"))
