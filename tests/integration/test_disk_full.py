"""A disk that is full: one clear error, nothing half under a final name, a rerun that finishes."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from tests.picture_folders import contents, write_pictures

MIB = 1 << 20


def config_for(data: Path, out: Path) -> PrecomputeConfig:
    return PrecomputeConfig(data=data, out=out, saliency="centre", saliency_size=8, shard_images=3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes, or gives it another size; skips where one cannot mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def sized(num_bytes: int) -> Path:
        nonlocal mounted
        options = f"size={num_bytes}" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no disk of a chosen size here: {done.stderr.strip()}")
        mounted = True
        return place

    yield sized
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.usefixtures("ray_session")
def test_the_job_on_a_small_disk(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    write_pictures(tmp_path / "data", 24)
    undisturbed = tmp_path / "undisturbed"
    config = replace(config_for(tmp_path / "data", undisturbed), shard_images=4)
    run_precompute(config)
    expected = contents(undisturbed)
    size = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    for share in (0.0, 0.5, 0.9):
        disk = small_disk(max(4096, int(share * size)))
        there_now = disk / "set"
        on_disk = replace(config, out=there_now)
        with pytest.raises(InputError, match="cannot be written: No space left on device; free"):
            run_precompute(on_disk, build_on_ray)
        there = contents(there_now)
        assert there.items() <= expected.items()
        assert not any(name.endswith(".tmp") for name in there)
    small_disk(4 * size)
    run_precompute(on_disk, build_on_ray)
    assert contents(there_now) == expected
    assert verify_set(there_now) == []
