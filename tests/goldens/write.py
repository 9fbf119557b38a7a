"""Rewrite goldens: ``python -m tests.goldens.write precompute moco_v2_small ...``, or ``all``.

Do this when a change is meant to alter them, in a commit that says what changed and why.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests

import argparse
import json
import tempfile
from pathlib import Path

from tests.goldens.measure import (
    PRECOMPUTE,
    RECIPE_NAMES,
    golden_file,
    make_shards,
    measure_precompute,
    measure_recipe,
    versions,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=["all", PRECOMPUTE, *RECIPE_NAMES])
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder))
        for name in (PRECOMPUTE, *RECIPE_NAMES) if "all" in names else names:
            measured = (
                measure_precompute(shards)
                if name == PRECOMPUTE
                else measure_recipe(name, shards, Path(folder) / name)
            )
            golden = {"versions": versions()} | measured
            golden_file(name).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
