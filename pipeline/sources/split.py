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
    """Which part of the images is taken.

    Attributes:
        part: Images that are taken: all, or those of one of two parts that share no group, train
            or val; a hash of the group's name decides.
        val_share: Share of the groups, in (0, 1), that is in val.
        group_by: Regular expression with one pair of parentheses that finds the group in an
            image's name, as in '(patient[0-9]+)'; none: each image is a group of its own.
        group_column: Column of groups, or field of the .json of a tar's members.
    """

    part: Part = "all"
    val_share: float = 0.2
    group_by: str = ""
    group_column: str = ""

    def __post_init__(self) -> None:
        by, column = self.group_by, self.group_column
        check(0 < self.val_share < 1, f"val_share {self.val_share} must be in (0, 1)")
        check(self.part != "all" or not (by or column), "groups are for --part train or val")
        check(not (by and column), "--group-by and --group-column: give one of them")
        try:
            num_groups = re.compile(by).groups if by else 1
        except re.error as error:
            raise InputError(f"--group-by {by!r} is no regular expression: {error}") from error
        wanted = "wanted is one, around what names the group"
        check(num_groups == 1, f"--group-by {by!r} has {num_groups} pairs of parentheses: {wanted}")

    @property
    def split_parameters(self) -> dict[str, object]:
        """What decides which images are taken, for the plan."""
        if self.part == "all":
            return {}
        return {name: getattr(self, name) for name in Split.__dataclass_fields__}

    def takes(self, row: Row) -> bool:
        """Whether an image is in the part; InputError where it is in no group."""
        if self.part == "all":
            return True
        group: str | None = row["source"]
        if self.group_by:
            found = re.search(self.group_by, row["source"])
            group = found[1] if found else None
        elif self.group_column:
            group = label_text(row.get("group") or "nan")
        if group is None:
            by = self.group_by or self.group_column
            raise InputError(f"{row['source']} is in no group by {by!r}")
        return (hash_share(group) < self.val_share) == (self.part == "val")


def hash_share(group: str) -> float:
    """A number in [0, 1) that stands for a group: two to the power -64 times blake2b."""
    text = group.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8, person=DOMAIN).digest(), "big") / 2**64
