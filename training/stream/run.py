"""Run the stages of a stream one after the other, measure every one, and write the table."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from pipeline.core.errors import InputError, check
from pipeline.core.progress import say
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.atomic import write_atomically
from pipeline.storage.storage import Location
from training.config.file import CONFIG_FILE
from training.config.pretrain import PretrainConfig
from training.core.distributed import agree, rank
from training.data.order import num_used
from training.engine.preflight import check_apart, steps_per_epoch
from training.engine.result import RunResult
from training.stream.config import Stream, stage_folder
from training.stream.figures import Asked, opened
from training.stream.forgetting import Forgetting, write_forgetting

FIGURES_FILE = "stream_figures.json"
"""In the folder of a stage: the figures of its network, and what they were measured on."""
Launch = Callable[[PretrainConfig], RunResult]
Measure = Callable[[Asked], list[float]]


def run_stream(stream: Stream, launch: Launch, measure: Measure) -> Forgetting | None:
    """Run or resume a stream; returns its table, or None if a stage was asked to stop.

    Every stage is an ordinary run, which goes on from its newest checkpoint: what has finished is
    not repeated. `launch` runs a pretraining, `measure` is `figures.measure` on all ranks. Under
    ``torchrun`` called by every rank.

    Raises:
        InputError: sets share images, a set is missing, or a run does not fit.
    """
    taken = (stream.base.out / CONFIG_FILE).exists()
    check(not taken, f"{stream.base.out} holds a run: choose another --out, for the stream's runs")
    further = stage_folder(stream.base.out, len(stream.stages))
    check(not further.exists(), f"{further} is of a longer stream: give all of its --stages")
    kinds = tuple(opened(*one, stream.base)[0] for one in _sets(stream))
    check_apart([*stream.stages, *stream.val])
    configs = [stream.stage(number) for number in range(len(stream.stages))]
    values = []
    for number, config in enumerate(configs):
        if rank() == 0:
            say(f"stage {number} of {len(configs)}: {config.shards}, into {config.out}")
        found = _trained(stream, config, launch, measure)
        if found is None:
            return None
        values.append(found)
    table = Forgetting(tuple(map(str, stream.stages)), kinds, np.array(values, np.float64))
    if stream.joint:
        infos = [load_dataset_info(root) for root in stream.stages]
        images = [num_used(info, stream.base.data_fraction) for info in infos]
        pairs = zip(configs, infos, strict=True)
        joint = stream.joint_run(images, sum(steps_per_epoch(*pair) for pair in pairs))
        if rank() == 0:
            say(f"all sets at once, as many steps, into {joint.out}")
        found = _trained(stream, joint, launch, measure)
        if found is None:
            return None
        table = replace(table, joint_T=np.array(found, np.float64))
    if rank() == 0:
        write_forgetting(stream.base.out, table)
    return table


def _sets(stream: Stream) -> tuple[tuple[Location, Location | None], ...]:
    return tuple(zip_longest(stream.stages, stream.val))


def _trained(
    stream: Stream, config: PretrainConfig, launch: Launch, measure: Measure
) -> list[float] | None:
    """Train a run to its end and measure it, or read what was measured; None: it was stopped."""
    if not launch(config).finished:
        return None
    path, sets = config.out / FIGURES_FILE, _sets(stream)
    roots = [root for one in sets for root in one if root is not None]
    key = [load_dataset_info(root).plan_digest for root in roots]
    stored: dict[str, Any] = {}
    if path.exists():
        try:
            stored = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): remove it") from error
    if agree(int(stored.get("sets") == key)):
        return list(stored["figures"])
    figures = measure(Asked(config, sets))
    if rank() == 0:
        write_atomically(path, json.dumps({"sets": key, "figures": figures}).encode())
    return figures
