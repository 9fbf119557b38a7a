"""How good must a map be? Exchanged backgrounds with saliency from several places.

The pictures of table `backgrounds`, with larger crops and 0.6 of the queries exchanged. Each source
but the true masks and the controls is label-free. `shuffled` has the `boundary` map of another
picture.
"""

from dataclasses import replace
from pathlib import Path

import cv2

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.shardset.manifest import load_dataset_info, read_manifest
from pipeline.shardset.reader import ShardSetReader
from tests.benchmarks.ablation_table import Data
from tests.benchmarks.tables import backgrounds
from tests.benchmarks.tables.backgrounds import LARGER, MORE_EXCHANGE, shards_of

SHUFFLED = "shuffled"
SOURCES = {
    "boundary": "boundary",
    "second look": "boundary:second_look=true",
    "refined": "boundary:second_look=true,refine=true",
    "spectral residual": "spectral_residual",
    "fine grained": "fine_grained",
    "centre": "centre",
    "all is object": "uniform",
    "true masks": "external",
    SHUFFLED: SHUFFLED,
}


def prepare(folder: Path, seed: int, source: str = "boundary") -> Data:
    """Those of table `backgrounds`; of `shuffled` with the maps of pictures half the set away."""
    if source != SHUFFLED:
        return backgrounds.prepare(folder, seed, source)
    data, shards = backgrounds.prepare(folder, seed), shards_of(folder / f"shards-{seed}", source)
    pictures, maps = folder / f"pictures-{seed}" / "pictures" / "train", folder / f"maps-{seed}"
    info = load_dataset_info(data.shards)
    rows = (read_manifest(data.shards, shard.name, ["source"]) for shard in info.shards)
    names = [name for table in rows for name in table["source"].to_pylist()]
    reader = ShardSetReader(data.shards, info)
    for number, name in enumerate(names):
        picture, _ = reader.read_pixels(number)
        _, saliency = reader.read_pixels((number + len(names) // 2) % len(names))
        fitted = cv2.resize(saliency, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        path = (maps / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), fitted)
    run_precompute(PrecomputeConfig(data=pictures, out=shards, saliency="external", masks=maps))
    return replace(data, shards=shards)


TABLE = replace(
    LARGER,
    name="maps",
    about="0.6 of the queries on exchanged backgrounds, by maps from several places.",
    arms={"none": {}, **dict.fromkeys(SOURCES, MORE_EXCHANGE)},
    prepare=prepare,
    sources=SOURCES,
)
