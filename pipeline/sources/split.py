"""Split images into two parts, for training and for evaluation, that share no group.

A group is what must not be torn apart: a patient, a scene, a sequence. Its part follows from a hash
of its name alone, so that it is the same however many images are added.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from pipeline.core.errors import InputError, check
from pipeline.sources.listing import Row, label_text

Part = Literal["all", "train", "val"]
DOMAIN = b"salmask split"
"""Keeps these hashes apart from others."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which part of the images is taken: the options of `PrecomputeConfig` with these names."""

    part: Part = "all"
    val_share: float = 0.2
    group_by: str = ""
    group_column: str = ""

    def __post_init__(self) -> None:
        share = self.val_share
        check(0 < share < 1, f"val_share {share} must be in (0, 1)")
        by = self.group_by or self.group_column
        check(not by or self.part != "all", "groups are for --part train and --part val")
        both = bool(self.group_by and self.group_column)
        check(not both, "--group-by and --group-column: give one of them")
        try:
            fits = not self.group_by or re.compile(self.group_by).groups == 1
        except re.error as error:
            raise InputError(f"--group-by {self.group_by!r} is no pattern: {error}") from error
        wanted = "wanted are parentheses around the part of a name that is its group"
        check(fits, f"--group-by {self.group_by!r} has not one group: {wanted}")

    @property
    def parameters(self) -> dict[str, object]:
        """What decides which images are taken."""
        return {"part": self.part, "val_share": self.val_share, "group": self._by}

    @property
    def _by(self) -> str:
        return self.group_by or self.group_column or "none"

    def takes(self, row: Row) -> bool:
        """Whether an image is in the part; InputError where it is in no group."""
        if self.part == "all":
            return True
        source: str = row["source"]
        group: str | None = source
        if self.group_by:
            found = re.search(self.group_by, source)
            group = found[1] if found else None
        elif self.group_column:
            named = row.get("group")
            group = None if named is None else label_text(named)
        check(group is not None, f"{source} is in no group by {self._by!r}")
        assert group is not None
        return (hash_share(group) < self.val_share) == (self.part == "val")


def hash_share(group: str) -> float:
    """A number in [0, 1) that stands for a group: two to the power -64 times blake2b."""
    text = group.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8, person=DOMAIN).digest(), "big") / 2**64
