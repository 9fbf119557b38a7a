"""Sets of images of more than 8 bits and of other channels: one range, stated and kept."""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.images.pixel_format import IMAGENET
from pipeline.precompute.build import BuiltShard, ScannedShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import build_locally
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from pipeline.shardset.manifest import load_dataset_info, read_manifest, read_rejected
from pipeline.shardset.reader import ShardSetReader
from tests.picture_folders import contents, write_pictures

Grey = NDArray[np.uint16]


def grey(number: int = 1, factor: int = 16) -> Grey:
    """A picture of 8 bits times a factor: 12 bits by default."""
    y, x = np.mgrid[0:36, 0:48]
    values: Grey = ((x * 3 + y * 2 + 7 * number + 3) % 256 * factor).astype(np.uint16)
    return values


def write(file: Path, values: NDArray[np.integer[Any] | np.floating[Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npy":
        np.save(file, values)
    else:
        assert cv2.imwrite(str(file), values)


def config_of(root: Path, **changes: object) -> PrecomputeConfig:
    config = PrecomputeConfig(
        data=root / "data", out=root / "out", saliency="centre", shard_images=3
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def stored(out: Path) -> dict[str, NDArray[np.uint8]]:
    """The images as training reads them, by the source."""
    info = load_dataset_info(out)
    reader, number = ShardSetReader(out, info), 0
    found: dict[str, NDArray[np.uint8]] = {}
    for shard in info.shards:
        for source in read_manifest(out, shard.name, ["source"])["source"].to_pylist():
            found[source] = reader.read_image(number)
            number += 1
    return found


def test_one_range_for_all_depths_and_what_loses_by_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 19: the same picture of 16, 12, 10 and 8 bits."""
    factors = {"full": 257, "twelve": 16, "ten": 4, "eight": 1}
    for name, factor in factors.items():
        write(tmp_path / "data" / f"{name}.png", grey(factor=factor))
    info = run_precompute(config_of(tmp_path))
    assert info.pixels.integers == ((0.0, 65536.0),) * 3
    said = capsys.readouterr().out
    assert "not all images are 8-bit of three channels: 3 channels, integers 0 to 65536 " in said
    assert f"(--range; validation images: --range like {tmp_path / 'out'})\n" in said
    assert "warning: 3 of 4 images have fewer than 16 levels" in said
    assert "were clipped" not in said
    for source, pixels in stored(tmp_path / "out").items():
        expected = grey(factor=factors[source.removesuffix(".png")]) >> 8
        assert np.array_equal(pixels, expected[..., None].repeat(3, axis=2))
    alone = config_of(tmp_path, data=tmp_path / "data" / "ten.png", out=tmp_path / "ten")
    run_precompute(replace(alone, data=str(tmp_path / "data" / "te*.png")))
    assert "fewer than" not in capsys.readouterr().out
    assert np.array_equal(stored(tmp_path / "ten")["ten.png"][..., 0], grey(factor=1))


def test_a_mixed_folder_leaves_its_eight_bit_images_untouched(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 9)
    before = run_precompute(config_of(tmp_path, out=tmp_path / "before"))
    assert (before.pixels.integers, before.pixels.normalisation) == ((), IMAGENET)
    shallow = stored(tmp_path / "before")
    for number in range(4):
        write(tmp_path / "data" / f"class_{number % 3}" / f"deep {number}.png", grey(number))
    info = run_precompute(config_of(tmp_path))
    assert info.pixels.integers == ((0.0, 4096.0),) * 3
    assert info.pixels.normalisation == IMAGENET
    found = stored(tmp_path / "out")
    assert len(found) == 13
    for source, pixels in shallow.items():
        assert np.array_equal(found[source], pixels)
    for name, data in _members(tmp_path / "out"):
        if name.startswith("picture") and name.endswith((".jpg", ".png", ".webp")):
            file = tmp_path / "data" / f"class_{int(name[8]) % 3}" / f"picture {name[8]}"
            stored_file = file.with_suffix(f".{name.rpartition('.')[2]}")
            assert not stored_file.exists() or stored_file.read_bytes() == data
    assert verify_set(tmp_path / "out", 1) == []


def _members(out: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted((out / "shards").iterdir()):
        with tarfile.open(file) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                if ".saliency" not in member.name:
                    yield member.name, content.read()


def test_an_append_and_another_run_keep_the_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write(tmp_path / "data" / f"{number}.png", grey(number))
    first = run_precompute(config_of(tmp_path))
    digests = contents(tmp_path / "out")
    assert run_precompute(config_of(tmp_path)) == first
    assert contents(tmp_path / "out") == digests
    write(tmp_path / "data" / "5.png", grey(5, factor=200))
    capsys.readouterr()
    info = run_precompute(config_of(tmp_path, append=True))
    assert info.pixels == first.pixels
    assert "warning: 1 of 1 images have values outside of the range" in capsys.readouterr().out
    expected = np.minimum(grey(5, factor=200) >> 4, 255)
    assert np.array_equal(stored(tmp_path / "out")["5.png"][..., 0], expected)
    members = dict(_members(tmp_path / "out"))
    (about,) = (json.loads(members[n]) for n in members if n[:2] == "5-" and n.endswith(".json"))
    assert about["outside"] == pytest.approx(np.mean(grey(5, factor=200) > 4096), abs=1e-6)
    assert about["levels"] == len(np.unique(expected))


class Stops(Exception):
    """The process is killed here."""


def test_a_run_that_was_stopped_between_the_passes_ends_with_the_same_set(tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path / "data" / f"{number}.png", grey(number))

    def stops_after(last: type[BuiltShard]) -> Callable[[Sequence[ShardJob]], Iterator[BuiltShard]]:
        def build(jobs: Sequence[ShardJob]) -> Iterator[BuiltShard]:
            for job in jobs:
                yield (done := ensure_shard(job))
                if type(done) is last:
                    raise Stops

        return build

    run_precompute(config_of(tmp_path, out=tmp_path / "whole"))
    for kind in (ScannedShard, BuiltShard):  # within the first pass, and within the second
        with pytest.raises(Stops):
            run_precompute(config_of(tmp_path), stops_after(kind))
    run_precompute(config_of(tmp_path), build_locally)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(InputError, match=r"range: none -> 0 4095"):
        run_precompute(config_of(tmp_path, range=("0", "4095")))


def test_validation_images_take_the_range_of_the_training_images(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.npy", np.linspace(-1, 3, 48 * 36).reshape(36, 48))
    write(tmp_path / "val" / "b.npy", np.linspace(0, 1, 48 * 36, dtype="f4").reshape(36, 48))
    train = run_precompute(config_of(tmp_path))
    like = ("like", str(tmp_path / "out"))
    val = config_of(tmp_path, data=tmp_path / "val", out=tmp_path / "made", range=like)
    info = run_precompute(val)
    assert info.pixels == train.pixels
    assert info.pixels.floats == ((-1.0, 3.0),) * 3
    pixels = stored(tmp_path / "made")["b.npy"]
    assert (pixels.min(), pixels.max()) == (64, 128)
    assert run_precompute(val) == info


def test_channels_are_stored_and_other_ones_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard of pictures alone, made in the first pass, is made again."""
    five = [np.stack([grey(n + c) for c in range(5)], axis=2) for n in range(12)]
    for number, values in enumerate(five):
        write(tmp_path / "data" / f"{number}.npy", values)
    config = config_of(tmp_path, bits=16, shard_images=1, max_rejected_fraction=0.2)
    info = run_precompute(config)
    assert (info.pixels.channels, info.pixels.bits) == (5, 16)
    assert len(info.pixels.mean) == 5
    for source, pixels in stored(tmp_path / "out").items():
        assert np.array_equal(pixels, five[int(source.removesuffix(".npy"))] >> 4)
    png = next(data for name, data in _members(tmp_path / "out") if name.endswith(".png"))
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.dtype == np.uint16
    assert verify_set(tmp_path / "out", 1) == []
    listed = tmp_path / "list.txt"
    write(tmp_path / "data" / "photo.png", grey(0, factor=1)[..., None].astype("u1").repeat(3, 2))
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    listed.write_text("".join(f"data/{name}\n" for name in names))
    mixed = replace(config, data=listed, out=tmp_path / "mixed")
    assert run_precompute(mixed).num_images == 12
    assert "1 rejected" in capsys.readouterr().out
    reasons = [
        row["reason"]
        for shard in load_dataset_info(tmp_path / "mixed").shards
        for row in read_rejected(tmp_path / "mixed", shard.name).to_pylist()
    ]
    assert reasons == ["has 3 channels, and the images of the set 5"]
    with pytest.raises(
        InputError, match="saliency spectral_residual is for RGB, these images have 5 channels"
    ):
        run_precompute(replace(mixed, out=tmp_path / "other", saliency="spectral_residual"))


def test_arrays_beside_images_are_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", 2)
    write(tmp_path / "data" / "class_0" / "features.npy", np.zeros(5))
    assert run_precompute(config_of(tmp_path)).num_images == 2
    assert "1 other file ignored (1 .npy)" in capsys.readouterr().out


def test_settings_of_before_have_the_parameters_of_before(tmp_path: Path) -> None:
    """By which earlier sets are known again."""
    config = config_of(tmp_path)
    assert not {"range", "bits"} & config.parameters({}).keys()
    assert replace(config, bits=16).parameters({})["bits"] == 16
    with pytest.raises(InputError, match="bits 16, resize_short 64"):
        replace(config, bits=16, resize_short=64)
