"""Made pictures with exact masks (`pipeline.demo`), drawn where they are read."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import IO

from pipeline.core.errors import InputError, check
from pipeline.demo.pictures import DRAWING_VERSION, KINDS, SIDE, SPLITS, encoded_picture
from pipeline.sources.listing import DataStore, Listing, Row, SourceOptions
from pipeline.storage.file import File
from pipeline.storage.storage import SYNTHETIC
from pipeline.storage.store import Store, StoreError

NUMBERS = {"n": (1, None), "seed": (0, 0), "side": (16, SIDE)}
"""Parameters that are whole numbers: their least value and their default."""
MASK_SUFFIX = ".png"


@dataclass(frozen=True, kw_only=True)
class SyntheticStore(Store):
    """Pictures by name; each is a function of its name. Names ending in .png are the masks.

    Attributes:
        n: number of pictures.
        seed: no picture is the same under another one.
        side: mean side in pixels.
        split: train and usual: most backgrounds are typical of the kind; changed: none is.
    """

    n: int
    seed: int
    side: int
    split: str

    @property
    def url(self) -> str:
        """What was asked for, in full."""
        return f"{SYNTHETIC}n={self.n},seed={self.seed},side={self.side},split={self.split}"

    def name(self, number: int) -> str:
        """The name of a picture: with all that decides it."""
        drawn = f"made-{DRAWING_VERSION}-{self.split}-{self.seed}-{self.side}"
        return f"{drawn}/{KINDS[number % len(KINDS)]}/{number:08d}.jpg"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of a picture, or of its mask."""
        stem, suffix = os.path.splitext(name)
        number = stem.rpartition("/")[2]
        if not number.isdecimal() or self.name(int(number)) != f"{stem}.jpg":
            raise FileNotFoundError(self.where(name))
        encoded = encoded_picture(self.seed, self.split, int(number), self.side)
        data = encoded[suffix == MASK_SUFFIX]
        return data[offset : None if length is None else offset + length]

    def find(self, name: str) -> File | None:
        """A picture, which is drawn for its size; None if there is none of that name."""
        with suppress(FileNotFoundError):
            return File(name, len(self.read(name)), 0)
        return None

    def files(self, prefix: str = "") -> Iterator[File]:
        """The names of all pictures; their sizes are not known, and given as -1."""
        names = map(self.name, range(self.n))
        return (File(name, -1, 0) for name in names if name.startswith(prefix))

    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Refused, and so is `remove`."""
        raise StoreError(f"{self.where(name)}: synthetic pictures cannot be changed")

    def remove(self, name: str) -> None:  # noqa: D102
        self.new_file(name)

    def sweep(self) -> int:
        """Nothing is ever left."""
        return 0


def list_synthetic(data: str, options: SourceOptions) -> Listing:
    """The pictures that `synthetic:n=20000,seed=0,side=64,split=train` names; n must be given.

    Raises:
        InputError: it cannot be read, or options that do not fit.
    """
    for name in ("image_column", "label_column"):
        given = getattr(options, name)
        check(not given, f"--{name.replace('_', '-')} {given}: synthetic pictures have no columns")
    store = SyntheticStore(**_parameters(data))  # type: ignore[arg-type]

    def rows() -> Iterator[Row]:
        for number, name in enumerate(store.names()):
            row: Row = {"source": name, "num_bytes": -1}
            if options.labels:
                row["label"] = KINDS[number % len(KINDS)]
            if options.mask_column:
                row["mask"] = os.fsencode(os.path.splitext(name)[0] + MASK_SUFFIX)
            yield row

    return Listing(data=DataStore(store=store, masks=store), rows=rows())


def _parameters(data: str) -> dict[str, int | str]:
    wanted = f"wanted {SYNTHETIC}n=20000, and after commas seed=, side= or split="
    found: dict[str, int | str] = {"split": SPLITS[0]}
    found |= {name: default for name, (_, default) in NUMBERS.items() if default is not None}
    given: set[str] = set()
    for part in data.removeprefix(SYNTHETIC).split(","):
        name, _, value = part.partition("=")
        check(name not in given, f"{data} has {name} twice")
        given.add(name)
        if name == "split" and value in SPLITS:
            found[name] = value
        elif name in NUMBERS and value.isdecimal() and int(value) >= NUMBERS[name][0]:
            found[name] = int(value)
        else:
            least = ", ".join(f"{one} {low} or more" for one, (low, _) in NUMBERS.items())
            splits = ", ".join(SPLITS)
            raise InputError(f"{data} is not understood at {part!r}: {wanted} ({least}; {splits})")
    check("n" in found, f"{data} does not say how many: {wanted}")
    return found
