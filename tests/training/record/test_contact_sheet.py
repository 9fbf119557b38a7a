from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.shardset.manifest import load_dataset_info
from tests.shard_sets import write_shard_set
from training.config.derived import stream_config
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.methods.moco.settings import MoCoConfig
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig
from training.record.contact_sheet import (
    FIRST_COLUMNS,
    GAP,
    HEADER,
    TILE,
    shown_views,
    write_contact_sheet,
)
from training.views.fills import fill_named
from training.views.inputs import build_inputs
from training.views.learned import new_generator
from training.views.settings import MaskConfig, ViewConfig
from training.views.spec import with_generator

ROWS = 3
EXCHANGE = SimCLRConfig(object_head="exchange", object_exchange_probability=1.0)
MATCHED = MoCoConfig(hard_kind="matched")


@pytest.mark.parametrize(
    ("fill", "strategy", "method"),
    [
        ("mean", "balanced", MoCoConfig()),
        ("blur", "balanced", MoCoConfig()),
        ("high_pass", "balanced", MoCoConfig()),
        ("mean", "none", EXCHANGE),
        ("mean", "exchange", SimCLRConfig(hard_negatives=0)),
        ("mean", "exchange", EXCHANGE),
        ("mean", "balanced", MATCHED),
    ],
)
def test_shows_what_the_encoders_see(
    tmp_path: Path, fill: str, strategy: str, method: MethodConfig
) -> None:
    write_shard_set(tmp_path, num_images=8)
    masks, views = MaskConfig(strategy=strategy), ViewConfig(size=32, grid=4)
    settings: dict[str, Any] = {
        "batch_size": 4,
        "views": views,
        "fill": fill,
        "masks": masks,
        "method": method,
    }
    config = PretrainConfig(shards=tmp_path, out=tmp_path, **settings)
    info = load_dataset_info(tmp_path)
    dataset = BatchDataset(tmp_path, info, stream_config(config), rank=0, world_size=1)
    write_contact_sheet(tmp_path / "sheet.png", dataset, config, rows=ROWS)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    shown = shown_views(config)
    exchanged = ["exchanged"] if method is EXCHANGE or strategy == "exchange" else []
    others = ["matched-query-0"] if method is MATCHED else exchanged
    assert [view.name for view in shown] == ["query", "key", "negative-key-0", *others]
    columns = len(FIRST_COLUMNS) + len(shown)
    assert sheet.shape == (HEADER + ROWS * (TILE + GAP), GAP + columns * (TILE + GAP), 3)

    def tile(row: int, view: str) -> NDArray[np.uint8]:
        column = len(FIRST_COLUMNS) + [one.name for one in shown].index(view)
        top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
        return sheet[top : top + TILE, left : left + TILE]

    batch = dataset.with_views(shown)[0]
    inputs = build_inputs(batch, shown, masks=config.masks, fill=fill_named(fill))
    for row in range(ROWS):
        differs = (tile(row, "key") != tile(row, "negative-key-0")).any(axis=2)
        masked = inputs.masks["negative-key-0"][row].any(dim=0).numpy()
        large = np.asarray(Image.fromarray(masked).resize((TILE, TILE), Image.Resampling.NEAREST))
        # A masked pixel may have the colour of its fill already, an unmasked one never changes;
        # a row or column may round to the neighbouring pixel where the tile is enlarged.
        assert (differs & ~large).mean() < 0.1
        assert differs.any() or not masked.any()
        if exchanged:
            changed = (tile(row, "query") != tile(row, "exchanged")).any(axis=2)
            assert changed.mean() < 0.95  # the object stays
            assert changed.mean() > 0.05 or row > 0


def test_shows_learned_masks_by_the_generator_as_it_is(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=8)
    masks, views = MaskConfig(strategy="learned"), ViewConfig(size=32, grid=4)
    config = PretrainConfig(shards=tmp_path, out=tmp_path, batch_size=4, views=views, masks=masks)
    info = load_dataset_info(tmp_path)
    dataset = BatchDataset(tmp_path, info, stream_config(config), rank=0, world_size=1)
    generator, sheets = new_generator(masks.learned, views), []
    torch.nn.init.normal_(generator.out.weight, std=100)
    for name, mix in (("balanced", 0.0), ("learned", 1.0)):
        bound = with_generator(shown_views(config), generator, mix)
        write_contact_sheet(tmp_path / f"{name}.png", dataset, config, rows=ROWS, views=bound)
        sheets.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    changed = (sheets[0] != sheets[1]).any(axis=(0, 2)).nonzero()[0]
    left = GAP + len(FIRST_COLUMNS) * (TILE + GAP)
    assert changed.size > 0
    assert left <= changed.min() <= changed.max() < left + TILE, "the query's column alone"
