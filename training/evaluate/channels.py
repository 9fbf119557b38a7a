"""What a network is worth, and how fast it is, with fewer inner channels. Nothing is trained.

In every block the same share of the inner channels stays, those of the highest scores, and batch
norm is estimated again. Budgets are those of arXiv 2207.12065, which trains gates; ranking by batch
norm's scales is Network Slimming's (Liu et al., arXiv 1708.06519), there over all blocks at once.

Shapes: C inner channels, R rounds, N networks.
"""

import copy
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone.channels import Inner, inner_channels, keep_channels
from pipeline.backbone.folder import weights_digest
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import check
from pipeline.storage.storage import Location
from training.core.context import LocalContext
from training.core.distributed import gather_rows, rank
from training.encoders.export import EncoderName, load_encoder
from training.evaluate.case import Case
from training.evaluate.channels_config import ChannelsConfig
from training.evaluate.encoders import UNTRAINED, NamedEncoder, calibrate, load_encoders
from training.evaluate.frozen import knn, linear
from training.evaluate.intervals import percentile_interval
from training.evaluate.labelled import LabelledImages, hashed_subset, open_labelled
from training.evaluate.results import Result

STEP = 8
"""Widths from 8 on are multiples of it: kernels of CPUs take blocks of channels."""


def channels(case: Case) -> list[Result]:
    """The protocol `channels`: MACs, milliseconds, kNN and the fast probe of every budget.

    A narrower network is a checkpoint of its own, named after the whole one and its budget. Every
    rank ranks channels and narrows networks; they share the features.

    Raises:
        InputError: channels of this network cannot be removed; a budget that is too small.
    """
    config, whole, train = case.config.channels, case.encoder, case.train
    costs, generator = costs_of(whole), np.random.default_rng(case.config.seed)
    chosen = importance(whole, train, costs.inner, config.images)
    drawn = {name: torch.from_numpy(generator.random(len(s))) for name, s in chosen.items()}
    make = partial(narrowed, whole, train, costs, num_images=config.images)
    made = [make(budget, chosen) for budget in config.budgets]
    times_RN = milliseconds([whole, *made], config.rounds)
    results = []
    for budget, encoder, own_R in zip(config.budgets, made, times_RN.T[1:], strict=True):
        own = case if encoder is whole else replace(case, encoder=encoder)
        cost, middle = costs.of(costs.within(budget)), percentile_interval(own_R)  # of the rounds
        share = {"share": float(np.median(own_R / times_RN[:, 0]))}
        give = partial(own.result, "channels", settings=asdict(config))
        results.append(give("GMAC", cost["macs"] / 1e9, more=cost))
        results.append(give("ms", float(np.median(own_R)), interval=middle, more=share))
        results += [*knn(own), *linear(own)]
        if encoder is not whole:
            own = replace(case, encoder=make(budget, drawn, kind=" random"))
            results += [*knn(own), *linear(own)]
    return results


class Costs(NamedTuple):
    """MACs of a network's convolutions and linear layers by name, and its inner channels.

    Widths are numbers of inner channels by the layer that makes them.
    """

    counts: Mapping[str, int]
    inner: list[Inner]

    def of(self, widths: Mapping[str, int]) -> dict[str, float]:
        """MACs of the network with so many inner channels, exactly, and their share of all."""
        changed = dict(self.counts)
        for one in self.inner:
            for layer in (one.made_by, one.taken_by):
                changed[layer] = changed[layer] // one.width * widths[one.made_by]
        macs = sum(changed.values())
        return {"macs": macs, "share": macs / sum(self.counts.values())}

    def at_density(self, density: float) -> dict[str, int]:
        """The widths nearest to a share of each block's inner channels, in [0, 1]; at least 1."""

        def width(most: int) -> int:
            step = STEP if density * most >= STEP else 1
            return max(1, min(most, int(density * most / step + 0.5) * step))

        return {one.made_by: width(one.width) if density < 1 else one.width for one in self.inner}

    def within(self, budget: float) -> dict[str, int]:
        """The widths of the greatest density, in thousandths, within a share of the MACs, (0, 1].

        Raises:
            InputError: one inner channel a block takes more than that.
        """
        fixed = self.of({one.made_by: 0 for one in self.inner})["share"]
        tried = [self.at_density(number / 1000) for number in range(1001)]
        least = self.of(tried[0])["share"]
        check(
            budget >= least,
            f"a budget of {budget:g}: a share of {fixed:.4f} of the network's MACs is fixed, and "
            f"with one inner channel a block it is {least:.4f}: wanted that or more",
        )
        return tried[bisect_right(tried, budget, key=lambda widths: self.of(widths)["share"]) - 1]


def costs_of(encoder: NamedEncoder) -> Costs:
    """Count by one image at the view's size; InputError where no channels can be removed."""
    inner = inner_channels(encoder.network, encoder.info.architecture)
    names = {layer: name for name, layer in encoder.network.named_modules()}
    counts: dict[str, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        counts[names[layer]] = outputs.numel() * layer.get_parameter("weight")[0].numel()

    with ExitStack() as hooks, torch.no_grad():
        for layer in names:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                hooks.enter_context(layer.register_forward_hook(count))
        side = encoder.view_size
        encoder(torch.zeros(1, encoder.info.pixels.channels, side, side))
    return Costs(counts, inner)


def importance(
    encoder: NamedEncoder, images: LabelledImages, inner: Sequence[Inner], num_images: int
) -> dict[str, Tensor]:
    """Scores: |scale of batch norm| * mean |activation|, over images and positions.

    The activation is what the next layer takes; without batch norm the scale is 1. The images are
    at most `num_images` (`hashed_subset`). Float64 [C] on the CPU, by the layer that makes them.
    """
    network, numbers = encoder.network, hashed_subset(images.shard_sizes, num_images).tolist()
    scores = {one.made_by: torch.zeros(one.width, dtype=torch.float64) for one in inner}

    def look(one: Inner, taker: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        others = (0, 2, 3) if isinstance(taker, nn.Conv2d) else (0, 1, 2)
        score_C = inputs[0].abs().double().mean(dim=others) * len(inputs[0]) / len(numbers)
        if one.norm:
            score_C *= network.get_parameter(f"{one.norm}.weight").abs()
        scores[one.made_by] += score_C.cpu()

    with ExitStack() as hooks:
        for one in inner:
            taker = network.get_submodule(one.taken_by)
            hooks.enter_context(taker.register_forward_pre_hook(partial(look, one)))
        encoder.extract(encoder.batches(images, numbers))
    return scores


def narrowed(
    encoder: NamedEncoder,
    images: LabelledImages,
    costs: Costs,
    budget: float,
    scores: Mapping[str, Tensor],
    *,
    num_images: int,
    kind: str = "",
) -> NamedEncoder:
    """An encoder within a budget; the encoder itself where nothing has to go.

    The channels of the highest scores stay, and batch norm is estimated again (`calibrate`). The
    info says how many are left, and what that costs; the name has the budget and the scores' kind.
    """
    widths = costs.within(budget)
    cut = [one for one in costs.inner if widths[one.made_by] < one.width]
    if not cut:
        return encoder
    network, info = copy.deepcopy(encoder.network), encoder.info
    for one in cut:
        best_C = scores[one.made_by].argsort(descending=True, stable=True)[: widths[one.made_by]]
        keep_channels(network, one, best_C.sort().values)
    info = replace(
        info,
        channels=info.channels | {one.made_by: widths[one.made_by] for one in cut},
        provenance=info.provenance | {"channels": costs.of(widths)},
    )
    made = replace(encoder, network=network, info=info, name=f"{encoder.name} {budget:g}{kind}")
    calibrate(made, images, num_images)
    is_random = encoder.kind == UNTRAINED  # its digest is its seed
    return made if is_random else replace(made, digest=weights_digest(network.state_dict()))


def load_narrowed(
    path: Location, name: EncoderName, budget: float | None, shards: Path | None
) -> tuple[nn.Module, BackboneInfo]:
    """`load_encoder`, and then `narrowed` to a budget on images of shards or folders, if any."""
    if budget is None or shards is None:
        return load_encoder(path, name)
    device, num = LocalContext().device, ChannelsConfig().images
    (encoder,) = load_encoders([str(path)], encoder=name, seed=0, device=device)
    images, costs = open_labelled(shards, labels=False), costs_of(encoder)
    costs.within(budget)  # an error before the work
    scores = importance(encoder, images, costs.inner, num)
    made = narrowed(encoder, images, costs, budget, scores, num_images=num)
    return made.network, made.info


def milliseconds(encoders: Sequence[NamedEncoder], rounds: int) -> NDArray[np.float64]:
    """Milliseconds of one image through each of several encoders, in turns: [R, N].

    On a CPU it is CPU time of one thread, which other processes hardly move. A first round does
    not count. Called by every rank; all get the first one's times.
    """
    size, device = encoders[0].view_size, encoders[0].device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    channels = encoders[0].info.pixels.channels
    view_1CSS = torch.zeros(1, channels, size, size, device=device)
    times_RN = torch.zeros(rounds + 1, len(encoders), dtype=torch.float64, device=device)
    gather_rows(times_RN)  # no rank computes while the first one measures
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for n in range(times_RN.numel() if rank() == 0 else 0):
        row, column = divmod(n, len(encoders))
        column = (column + row) % len(encoders)  # none always follows the same other
        with torch.inference_mode():
            start = clock()
            encoders[column].forward(view_1CSS).cpu()  # waits for a GPU
            times_RN[row, column] = 1e3 * (clock() - start)
    torch.set_num_threads(threads)
    times: NDArray[np.float64] = gather_rows(times_RN)[1 : rounds + 1].cpu().numpy()
    return times
