from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.shardset.manifest import load_dataset_info
from tests.shard_sets import write_shard_set
from training.config.derived import stream_config
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
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
from training.views.settings import MaskConfig, ViewConfig


def test_shows_the_query_on_another_background(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=8)
    method = SimCLRConfig(object_head="exchange", object_exchange_probability=1.0)
    config = PretrainConfig(
        shards=tmp_path,
        out=tmp_path,
        batch_size=4,
        views=ViewConfig(size=32, grid=4),
        masks=MaskConfig(strategy="none"),
        method=method,
    )
    info = load_dataset_info(tmp_path)
    dataset = BatchDataset(tmp_path, info, stream_config(config), rank=0, world_size=1)
    write_contact_sheet(tmp_path / "sheet.png", dataset, config, rows=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    names = [view.name for view in shown_views(config)]
    assert names == ["query", "key", "negative-key-0", "exchanged"]
    assert sheet.shape[1] == GAP + (len(FIRST_COLUMNS) + 4) * (TILE + GAP)
    query, exchanged = (sheet[HEADER:, GAP + n * (TILE + GAP) :][:TILE, :TILE] for n in (3, 3 + 3))
    changed = (query != exchanged).any(axis=2)
    assert 0.05 < changed.mean() < 0.95  # the object stays


@pytest.mark.parametrize("fill", ["mean", "blur", "high_pass"])
def test_shows_what_the_encoders_see(tmp_path: Path, fill: str) -> None:
    write_shard_set(tmp_path, num_images=8)
    config = PretrainConfig(
        shards=tmp_path, out=tmp_path, batch_size=4, views=ViewConfig(size=32, grid=4), fill=fill
    )
    dataset = BatchDataset(
        tmp_path, load_dataset_info(tmp_path), stream_config(config), rank=0, world_size=1
    )
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, dataset, config, rows=3)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (HEADER + 3 * (TILE + GAP), GAP + (3 + 3) * (TILE + GAP), 3)

    def tile(row: int, column: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
        return sheet[top : top + TILE, left : left + TILE]

    views = shown_views(config)
    assert [view.name for view in views] == ["query", "key", "negative-key-0"]
    inputs = build_inputs(dataset[0], views, masks=config.masks, fill=fill_named(fill))
    key, negative = len(FIRST_COLUMNS) + 1, len(FIRST_COLUMNS) + 2
    for row in range(3):
        differs = (tile(row, key) != tile(row, negative)).any(axis=2)
        masked = inputs.masks["negative-key-0"][row].any(dim=0).numpy()
        large = np.asarray(Image.fromarray(masked).resize((TILE, TILE), Image.Resampling.NEAREST))
        # A masked pixel may have the colour of its fill already, an unmasked one never changes;
        # a row or column may round to the neighbouring pixel where the tile is enlarged.
        assert (differs & ~large).mean() < 0.1
        if masked.any():
            assert differs.any()
    foreground = inputs.foreground["query"]
    assert foreground.dtype == torch.bool
