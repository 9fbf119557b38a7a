"""Hold the backbone's weights near those that a run starts from: L2, or memory aware synapses.

Aljundi et al., "Memory Aware Synapses", ECCV 2018, arXiv 1711.09601, section 4. The heads are free:
they are not part of what is kept.

Shapes: C channels, S side of the view.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.errors import DamagedSample
from pipeline.core.progress import track
from pipeline.storage.atomic import atomic_file
from pipeline.storage.storage import Location, fetched
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import load_tensors
from training.core.distributed import agree, mean_over_ranks, rank, world_size
from training.engine.start import first_run
from training.evaluate.checks import extractor_of
from training.evaluate.features import evaluation_mode, to_unit_range
from training.evaluate.labelled import hashed_subset, stored_images
from training.methods.interface import Method
from training.views.fills import Fill

ANCHOR_FILE = "anchor.pt"
"""In a run's folder: the weights that it started from, and their importance."""
NUM_IMAGES = 2000
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Anchor:
    """Weights, their values at the start of the run, and how important each is, 0 or more."""

    weights: list[Tensor]
    start: list[Tensor]
    importance: list[Tensor]
    strength: float

    @torch.no_grad()
    def pull(self) -> Tensor:
        """Add 2 * strength * importance * (w - start) to the gradients, which are there.

        Returns:
            The penalty whose gradient that is, the sum of strength * importance * (w - start)^2.
        """
        moved = torch._foreach_add(self.weights, self.start, alpha=-1)
        weighed = torch._foreach_mul(moved, self.importance)
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        torch._foreach_add_(gradients, weighed, alpha=2 * self.strength)
        torch._foreach_mul_(weighed, moved)
        return self.strength * torch.stack([one.sum() for one in weighed]).sum()


def importances(backbone: nn.Module, views: Iterable[Tensor]) -> tuple[list[Tensor], int]:
    """The sum over views [1, C, S, S] of |d ||h||^2 / d w| for each parameter w, and their number.

    The features h are not normalised: the length of unit rows depends on no weight. Batch norm is
    in evaluation mode, so that an image's gradient is its own.
    """
    weights, count = list(backbone.parameters()), 0
    sums = [torch.zeros_like(weight) for weight in weights]
    with evaluation_mode(backbone), torch.enable_grad():
        for view_1CSS in views:
            length = backbone(view_1CSS).float().square().sum()
            gradients = torch.autograd.grad(length, weights, materialize_grads=True)
            torch._foreach_add_(sums, torch._foreach_abs(gradients))
            count += 1
    return sums, count


def _views(
    config: PretrainConfig, run: Location, backbone: nn.Module, fill: Fill
) -> Iterator[Tensor]:
    """This rank's share of about 2,000 views of a run's images."""
    images = stored_images(first_run(run).shards, config.cache)
    numbers = hashed_subset(images.shard_sizes, NUM_IMAGES)[rank() :: world_size()]
    extractor = extractor_of(config, backbone, fill, next(backbone.parameters()).device)
    for number in track(numbers.tolist(), "importance of the weights", len(numbers), "images"):
        try:
            view_SS3 = torch.from_numpy(extractor.view(images.image(number)))
        except DamagedSample:
            if not extractor.skip_damaged:
                raise
            continue
        yield fill.prepare(to_unit_range(view_SS3.permute(2, 0, 1)[None], extractor.device))


def _measured(config: PretrainConfig, run: Location, backbone: nn.Module, fill: Fill) -> Named:
    """The mean importance on the images of the run before, and on those of the runs before it."""
    sums, count = importances(backbone, _views(config, run, backbone, fill))
    total = mean_over_ranks(torch.tensor(float(count), device=sums[0].device)).clamp(min=1)
    names = (name for name, _ in backbone.named_parameters())
    found = {n: mean_over_ranks(one) / total for n, one in zip(names, sums, strict=True)}
    earlier = fetched(run, ANCHOR_FILE) / ANCHOR_FILE
    if earlier.exists():
        for name, value in load_tensors(earlier, sums[0].device)["importance"].items():
            found[name] += value
    return found


def make_anchor(
    config: PretrainConfig, method: Method, fill: Fill, *, begun: bool
) -> Anchor | None:
    """The anchor of a run, or None; called by every rank.

    A run measures it once, before its first step, when the method has the weights of the start, and
    keeps it in its folder.

    Raises:
        InputError: a run that has begun has lost it.
    """
    run, kind = config.start_from, config.anchor.kind
    if run is None or kind == "none":
        return None
    named, path = dict(method.backbone.named_parameters()), config.out / ANCHOR_FILE
    if begun or agree(int(path.exists())):
        stored = load_tensors(path, next(iter(named.values())).device)
    else:
        stored = {"start": {name: weight.detach().clone() for name, weight in named.items()}}
        stored["importance"] = (
            _measured(config, run, method.backbone, fill) if kind == "mas" else {}
        )
        if rank() == 0:
            with atomic_file(path) as file:
                torch.save(stored, file)
    importance = stored["importance"]
    return Anchor(
        list(named.values()),
        [stored["start"][name] for name in named],
        [importance.get(name, torch.ones_like(weight)) for name, weight in named.items()],
        config.anchor.strength,
    )
