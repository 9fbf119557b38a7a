"""A small precompute and the first steps of every recipe are what they were.

A golden changes in a commit that says why; ``python -m tests.goldens.measure NAME`` rewrites it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.goldens.measure import (
    FOLDER,
    PRECOMPUTE,
    golden_file,
    make_shards,
    measure_precompute,
    measure_recipe,
    processor_maker,
    versions,
)
from training.config.recipes import RECIPES

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
GOLDENS = (PRECOMPUTE, *RECIPES)

LOSS_TOLERANCE = 1e-4
AT_64_PX = ("simclr_small", "simclr_small_baseline", "small_local_baseline")
LOSS_TOLERANCES = {"debug": 2e-3, **dict.fromkeys(AT_64_PX, 5e-4), "small_local": 1.1e-3}
"""Relative, at least twice the largest difference measured. The order of float32 sums follows the
processor's vector width and the number of threads: on an Intel Xeon over AVX-512, AVX2 and SSE 4.1,
one and two threads, the losses moved by 1e-3 (`debug`, tenth step), 5e-4 (`small_local`), 2e-4
(SimCLR at 64 px) and 3e-5 (all others but FLAT); masks, foreground and shards not by a bit. A
temperature that is 1 % higher moves the first loss of `moco_v2_imagenet100` by 9e-3, a rho that is
1 % higher by 2e-2."""
ELSEWHERE_TOLERANCE = 7e-2
"""On the processor of another maker than the goldens', of all losses but the first: twice the
largest difference between an Intel Xeon and an AMD EPYC (3.4e-2; the first losses differ by 1e-6).
In a flat part of a picture batch norm divides zero by its epsilon, and the last bit decides what a
ReLU lets through; the steps amplify it."""
FLAT = ("demo", "demo_baseline")
"""Recipes whose crops of small pictures hold so many flat parts that the vector width alone moves
their losses by 3.3e-2: they have that tolerance everywhere."""
SCHEDULE_TOLERANCE = 1e-12
"""Relative: a schedule is a few operations in float64."""


def read_golden(name: str) -> dict[str, Any]:
    """The golden of a recipe or of the precompute.

    Libraries of other versions, or another kind of machine, may give other bytes, so the test is
    skipped there. It cannot be skipped where constraints.txt is installed, on x86-64.
    """
    golden: dict[str, Any] = json.loads(golden_file(name).read_text())
    written, here = golden.pop("versions"), versions()
    other = [
        f"{key} {here[key]} (golden: {written[key]})" for key in here if here[key] != written[key]
    ]
    if other:
        pytest.skip(f"the golden {name} was written with other versions: {', '.join(other)}")
    return golden


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("goldens"))


def test_every_recipe_has_a_golden_and_nothing_else_has() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(GOLDENS)


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_are_of_the_pinned_versions(name: str) -> None:
    """Whoever pins another version rewrites the goldens, so that the rest is never skipped."""
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().split())
    written = json.loads(golden_file(name).read_text())["versions"]
    assert written == {key: pinned.get(key, "x86_64") for key in written}
    assert written.keys() == versions().keys()


def test_precompute_writes_the_same_bytes(shards: Path) -> None:
    """Shards, manifests, rejected lists and plan to the last bit.

    The encoders decide the bytes: OpenCV's of PNG, pyarrow's of parquet (its version stands in
    every file). The maps are levels of 256 that OpenCV and numpy compute in float32.
    """
    golden, measured = read_golden(PRECOMPUTE), measure_precompute(shards)
    assert measured["pictures"] == golden["pictures"], "the test's own pictures differ"
    assert measured["dataset"] == golden["dataset"]
    assert measured["files"] == golden["files"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_as_it_did(name: str, shards: Path, tmp_path: Path) -> None:
    golden, measured = read_golden(name), measure_recipe(name, shards, tmp_path / "run")
    for field, tolerance in (("lr", SCHEDULE_TOLERANCE), ("rho", SCHEDULE_TOLERANCE)):
        assert measured.pop(field) == pytest.approx(golden.pop(field), rel=tolerance, abs=0), field
    losses, expected = measured.pop("losses"), golden.pop("losses")
    assert measured == golden  # samples, masks and foreground, exactly
    tolerance = LOSS_TOLERANCES.get(name, LOSS_TOLERANCE)
    assert losses[0] == pytest.approx(expected[0], rel=tolerance, abs=0)
    if name in FLAT or processor_maker() != "GenuineIntel":  # which has measured all goldens
        tolerance = ELSEWHERE_TOLERANCE
    assert losses == pytest.approx(expected, rel=tolerance, abs=0)
