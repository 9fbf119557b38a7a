"""A disk that fills up: one clear error, nothing half under a final name, a rerun that finishes."""

import errno
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from pipeline.storage.atomic import temporaries
from tests.picture_folders import contents, write_pictures

MIB = 1 << 20


class FullDisk:
    """Counts what is written through `Path.open("xb")`, `os.fsync` and renames, and fails.

    Args:
        monkeypatch: puts it in place.
        fails_at: the number, from 1, of the first operation that fails; 0: none does.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int = 0) -> None:
        self.num_operations = 0
        self.fails_at = fails_at
        plain_open = Path.open

        def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # noqa: ANN401
            if mode != "xb":
                return plain_open(path, mode, *args, **kwargs)
            return io.BufferedWriter(_Raw(path, self.use))

        monkeypatch.setattr(Path, "open", opened)
        for owner, name in ((os, "fsync"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def use(self) -> None:
        """One more operation."""
        self.num_operations += 1
        if self.fails_at and self.num_operations >= self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:  # noqa: ANN401
            self.use()
            return operation(*args)

        return counted


class _Raw(io.FileIO):
    def __init__(self, path: Path, use: Callable[[], None]) -> None:
        super().__init__(path, "xb")
        self._use = use

    def write(self, data: Any) -> int:  # noqa: ANN401
        self._use()
        return super().write(data)


def config_for(data: Path, out: Path) -> PrecomputeConfig:
    return PrecomputeConfig(data=data, out=out, saliency="centre", saliency_size=8, shard_images=3)


def test_at_every_write(tmp_path: Path) -> None:
    data, undisturbed = tmp_path / "data", tmp_path / "undisturbed"
    write_pictures(data, 5)
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = FullDisk(monkeypatch)
        run_precompute(config_for(data, undisturbed))
    expected = contents(undisturbed)
    # plan, its rows, two shards of three files each, dataset.json: a write, a flush and a rename
    assert disk.num_operations >= 3 * (2 + 2 * 3 + 1)
    # the last four only flush folders that are whole, and need not succeed
    for number in range(1, disk.num_operations - 3):
        out = tmp_path / f"full-at-{number}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            FullDisk(monkeypatch, fails_at=number)
            with pytest.raises((OSError, InputError), match="No space left on device"):
                run_precompute(config_for(data, out))
        assert not any(temporaries(folder) for folder in (out, *out.iterdir())), number
        assert contents(out).items() <= expected.items(), number
        assert "dataset.json" not in contents(out)
        run_precompute(config_for(data, out))
        assert contents(out) == expected, number


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
