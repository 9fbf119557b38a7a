"""From the settings to a selection; the caller chooses who scores the shards."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import check, write_error
from pipeline.core.progress import say, track
from training.data.selection import Selection, write_selection
from training.select.config import ChooseConfig
from training.select.greedy import choose_images
from training.select.scorer import Scorer, scoring

SMALLEST_BATCH = 2
MapWork = Callable[[Callable[[], Callable[[int], None]], Sequence[int]], Iterable[None]]
"""Makes the work, does it for each number, in any order, and yields each time."""


def choose(
    config: ChooseConfig, map_work: MapWork = lambda make, numbers: map(make(), numbers)
) -> Selection:
    """Score what is not scored yet, by default in this process, choose, write the selection.

    Raises:
        InputError: pool, target, encoders or output cannot be used, or the budget is too small.
    """
    scorer = Scorer(config)
    num_images = scorer.info.num_images
    count = int(round(config.budget * num_images, 9))
    short = f"--budget {config.budget:g} of {num_images} images is {count}, too small for a batch"
    check(count >= SMALLEST_BATCH, short)
    missing = [number for number, file in enumerate(scorer.files) if not file.exists()]
    say(f"{len(scorer.files) - len(missing)} of {len(scorer.files)} shards were scored before")
    try:
        if missing:
            done = map_work(partial(scoring, config, scorer.reference()), missing)
            for _ in track(done, "scoring", len(missing), "shards"):
                pass
        table = pa.concat_tables([pq.read_table(file) for file in scorer.files])
        scores, clusters = (table[column].to_numpy() for column in ("score", "cluster"))
        clusters = clusters if config.diversity == "sqrt" else np.zeros_like(clusters)
        chosen = table.take(choose_images(scores, clusters, count))
        about = {"budget": config.budget, "diversity": config.diversity, **scorer.about}
        return write_selection(config.out, chosen, about)
    except OSError as error:
        raise write_error(str(config.out), error) from error
