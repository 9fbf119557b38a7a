"""Sources whose decoder or saliency kills its process, hangs it or fills its memory."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.images.source_image import DecodedSource, read_source
from pipeline.precompute import build
from pipeline.saliency.controls import Uniform
from pipeline.saliency.interface import Image, Map
from pipeline.storage.store import LocalStore

POISON = 255
"""The red of the first pixel of an image that is deadly; its green says how."""


def crash() -> None:
    ctypes.string_at(0)


def spin() -> None:
    while True:
        time.process_time()  # work without end: sleeping would use no CPU time


def sleep() -> None:
    while True:
        time.sleep(1)


def hoard() -> None:
    blocks = []
    while True:
        blocks.append(bytearray(64 << 20))


def leave() -> None:
    os._exit(3)


def orphan() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    sleep()


DEATHS: dict[str, Callable[[], None]] = {
    "crash": crash,
    "leave": leave,
    "spin": spin,
    "sleep": sleep,
    "hoard": hoard,
    "orphan": orphan,
}


def die_of(pixels: Image) -> None:
    red, green, _ = pixels[0, 0]
    if red == POISON:
        list(DEATHS.values())[green]()


class Deed(Uniform):
    """Does something before it makes maps."""

    def do(self, images: Sequence[Image]) -> None:
        raise NotImplementedError

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        self.do(images)
        return super().__call__(images)


class DeadlySaliency(Deed):
    """Dies of poisoned images."""

    def do(self, images: Sequence[Image]) -> None:
        for image in images:
            die_of(image)


class DeadlyDecoder(Uniform):
    """Makes the decoder of the process that unpickles it die of poisoned images."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _install, ()


def _install() -> Uniform:
    def read(data: bytes, max_pixels: int) -> DecodedSource:
        decoded = read_source(data, max_pixels)
        assert isinstance(decoded, DecodedSource)
        die_of(decoded.pixels)
        return decoded

    assert hasattr(build, "read_source")
    setattr(build, "read_source", read)  # noqa: B010  (mypy: the name is not build's own)
    return DeadlyDecoder()


class DiesInCompany(Deed):
    """Dies of every batch of more than one image."""

    def do(self, images: Sequence[Image]) -> None:
        if len(images) > 1:
            crash()


class Faulty(Deed):
    """Has a bug."""

    def do(self, images: Sequence[Image]) -> None:
        raise ValueError("a fault of the source's own")


class DiesAlways(Deed):
    """No image is to blame for it."""

    def do(self, images: Sequence[Image]) -> None:
        crash()


@dataclass(frozen=True, kw_only=True)
class KilledFromOutside(Deed):
    """Is killed over its first `times` images or batches, as when a machine's memory is full."""

    folder: str
    times: int

    def do(self, images: Sequence[Image]) -> None:
        is_plain = images[0].shape[0] == 48  # the picture that a new process begins with
        if not is_plain and len(list(Path(self.folder).iterdir())) < self.times:
            (Path(self.folder) / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class TellsItsProcess(Deed):
    """Leaves its process id in a file."""

    path: str

    def do(self, images: Sequence[Image]) -> None:
        if len(images) > 1:
            Path(self.path).write_text(str(os.getpid()))


def write_pictures(data: Path, count: int, poisoned: Mapping[int, str] | None = None) -> None:
    """PNGs of noise; those at the numbers given are poisoned with a death of ``DEATHS``."""
    data.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 200, (20, 24 + number, 3), np.uint8)
        if poisoned and number in poisoned:
            pixels[0, 0] = (0, list(DEATHS).index(poisoned[number]), POISON)
        assert cv2.imwrite(str(data / f"{number:03d}.png"), pixels)


class DeadlyStore(LocalStore):
    """A place in which reading the second shard's tar kills the process."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name.endswith("shard-000001.tar"):
            crash()
        return super().read(name, offset, length)
