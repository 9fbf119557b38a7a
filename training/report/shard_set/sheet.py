"""Images of a set with their saliency and foreground."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.saliency.foreground import foreground
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.reader import ShardSetReader
from training.report.page import Block, Card, Gallery, Strip, missing
from training.report.pictures import Pixels, dimmed, grid_overlay, heat, picture, shrunk
from training.report.shard_set.rows import Rows, read_sources
from training.report.wording import count, percent, shortened

GRID = 7
"""Patches along a side, as for the foreground share in the manifest."""
TILE = 220
LONGEST_NAME = 48


@dataclass(frozen=True)
class Sheet:
    """Draws cards of a set's images."""

    folder: Path
    info: DatasetInfo
    rows: Rows

    def blocks(self, numbers: Sequence[int]) -> list[Block]:
        """A gallery of some samples; a line for those that cannot be read."""
        reader = ShardSetReader(self.folder, self.info)
        sources = read_sources(self.folder, self.info, set(numbers))
        cards, broken = [], []
        for number in numbers:
            try:
                sample = reader.read(number)
                image, saliency = decode_stored(sample.image), decode_saliency(sample.saliency)
            except (InputError, ImageError) as error:
                broken.append(str(error))
                continue
            cards.append(self._card(number, sources[number], image, saliency))
        blocks: list[Block] = [Gallery(cards=cards)] if cards else []
        if broken:
            blocks.append(
                missing(f"{count(len(broken), 'image')} could not be shown; the first: {broken[0]}")
            )
        return blocks

    def _card(self, number: int, source: str, image: Pixels, saliency: Pixels) -> Card:
        share = float(self.rows.numbers["foreground_share"][number])
        mean = float(self.rows.numbers["saliency_mean"][number])
        label = int(self.rows.labels[number])
        height, width = image.shape[:2]
        small = shrunk(image, TILE)
        grid = cv2.resize(saliency.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
        marked = foreground(torch.from_numpy(np.asarray(grid) / 255)).numpy()
        name = shortened(source, LONGEST_NAME)
        strip = Strip(
            (
                picture(small, f"{name}, as it is stored", label="image"),
                picture(heat(small, saliency), f"{name}: saliency as heat", label="saliency"),
                picture(
                    dimmed(small, marked),
                    f"{name}: foreground bright, background dark",
                    overlay=grid_overlay(marked, grid=GRID),
                    label="foreground",
                ),
            )
        )
        words = [f"{width} x {height} px"]
        words += [self.info.class_names[label]] if 0 <= label < len(self.info.class_names) else []
        words += [f"foreground {percent(share, 0)}", f"mean saliency {mean:.2f}"]
        return Card(title=name, strips=(strip,), text=", ".join(words))


def spread_out(count_all: int, wanted: int) -> list[int]:
    """So many sample numbers, at random over the set, the same ones every time."""
    chosen = np.random.default_rng(0).permutation(count_all)[:wanted]
    return sorted(map(int, chosen))


def extremes(rows: Rows, wanted: int) -> tuple[list[int], list[int]]:
    """Samples of the greatest and of the least mean saliency; no sample is in both."""
    order = np.argsort(rows.numbers["saliency_mean"], kind="stable")
    wanted = min(wanted, len(order) // 2)
    least = [int(number) for number in order[:wanted]]
    return [int(number) for number in order[::-1][:wanted]], least
