"""A step's tensor functions never wait for the device.

Fake tensors have a device, a shape and no values: reading one (`.item()`, `if tensor`, a boolean
index) raises, and so does mixing devices. So a fake GPU shows both without a GPU.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.training.views.made import built, settings_of, views_of
from training.core.distributed import balanced_weights
from training.engine.optimisers import LARS
from training.methods.contrastive import HardNegatives
from training.methods.moco.method import info_nce
from training.methods.prime_weights import prime_log_weights
from training.methods.simclr.method import nt_xent
from training.views.colours import ColourDraws
from training.views.crops import CropBatch
from training.views.exchange import ExchangeDraws, PatchSwap
from training.views.fills import FILLS
from training.views.inputs import HostBatch
from training.views.learned import (
    LearnedDraws,
    LearnedMasker,
    between_images,
    new_generator,
    random_patches,
)
from training.views.maskers import MaskDraws, MaskerInputs
from training.views.patches import MASK_STRATEGIES
from training.views.settings import LearnedConfig
from training.views.spec import with_generator

BATCH, GRID, SIZE = 4, 7, 28
CASES = [
    *((fill, b, "random") for fill in FILLS for b in ("paper", "released")),
    *(("mean", "released", strategy) for strategy in MASK_STRATEGIES if strategy != "random"),
    *(("high_pass", "paper", strategy) for strategy in MASK_STRATEGIES if strategy != "random"),
]
"""Every fill and behaviour with one strategy, and every strategy with two shapes of masks."""


@pytest.fixture(autouse=True)
def fake_gpu() -> Iterator[None]:
    with FakeTensorMode(), torch.device("cuda"):
        yield


def image(count: int = BATCH, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(count, 3, SIZE, SIZE, dtype=dtype)


def mask_draws() -> MaskDraws:
    return MaskDraws(
        ratio_B=torch.empty(BATCH, dtype=torch.float64),
        scores_BCN=torch.empty(BATCH, 3, GRID * GRID),
        shape_B=torch.empty(BATCH),
        box_B4=torch.empty(BATCH, 4, dtype=torch.int64),
        apply_B=torch.empty(BATCH),
        count_B2=torch.empty(BATCH, 2, dtype=torch.float64),
    )


@pytest.mark.parametrize("read", [Tensor.item, bool, Tensor.nonzero])
def test_a_read_is_seen(read: Callable[[Tensor], object]) -> None:
    with pytest.raises(Exception, match=r"aten\.") as caught:
        read(torch.empty(1))
    assert isinstance(caught.value, DataDependentOutputException | RuntimeError)


def colours() -> ColourDraws:
    return ColourDraws(torch.empty(BATCH, 3, 3), torch.empty(BATCH, 3, 3), torch.empty(BATCH, 5))


@pytest.mark.parametrize(("fill", "behaviour", "strategy"), CASES)
def test_all_that_goes_before_the_encoders(fill: str, behaviour: str, strategy: str) -> None:
    settings = settings_of(
        fill,
        size=SIZE,
        grid=GRID,
        strategy=strategy,
        branch="query" if strategy == "exchange" else "both",
        behaviour=behaviour,
        probability=None if strategy == "exchange" else 0.5,
    )
    views = views_of(settings, of_key=2, of_query=1, exchange=0.5)
    views = (*views, settings.matched_negative("key"))
    lent_colours = ColourDraws(*(part[:1] for part in colours()))
    maps, seeds = torch.empty(BATCH, GRID, GRID), torch.empty(BATCH, dtype=torch.int64)
    cut = CropBatch(image(dtype=torch.uint8), maps, maps, colours())
    lent = CropBatch(image(1, torch.uint8), maps[:1], None, lent_colours)
    batch = HostBatch(
        sample_ids_B=seeds,
        noise_seeds_B=seeds,
        crops={"query": cut, "key": cut},
        masks={view.name: mask_draws() for view in views if view.masker is not None}
        | {"exchanged": ExchangeDraws(torch.empty(BATCH))},
        following={"query": lent, "key": lent},
        swaps={
            view.name: torch.empty(BATCH, GRID * GRID)
            for view in views
            if isinstance(view.fill, PatchSwap)
        },
    )
    inputs = built(batch, views, settings)
    assert list(inputs.views) == [view.name for view in views]
    assert len(views) == 7
    for tensor in (*inputs.views.values(), *inputs.masks.values(), *inputs.telemetry.values()):
        assert tensor.device.type == "cuda"


@pytest.mark.parametrize("kind", ["slots", "sequential"])
def test_learned_masks(kind: str) -> None:
    learned = LearnedConfig(kind=kind)  # type: ignore[arg-type]
    settings = settings_of(size=SIZE, grid=GRID, strategy="learned", learned=learned)
    generator = new_generator(learned, settings.cut)
    masker = with_generator((settings.query(),), generator, 0.5)[0].masker
    assert isinstance(masker, LearnedMasker)
    scores, slot_B = torch.empty(BATCH, 4, GRID * GRID), torch.empty(BATCH, dtype=torch.int64)
    drawn = LearnedDraws(mask_draws(), scores, torch.empty(BATCH), slot_B)
    foreground = torch.empty(BATCH, GRID, GRID, dtype=torch.bool)
    inputs = MaskerInputs(foreground, foreground.float(), SIZE, None, image())
    assert masker.mask(drawn, inputs).device.type == "cuda"
    chosen = masker.choose(drawn, image())
    assert random_patches(drawn, chosen.mask_BN).device.type == "cuda"
    assert between_images(chosen.logits_BKN).device.type == "cuda"


def weigh(similarity: Tensor, scale: float | Tensor) -> Tensor:
    return prime_log_weights(similarity, scale=scale, power=0.5, bias=0.1)


@pytest.mark.parametrize("weights", [None, weigh])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses(weights: Callable[..., Tensor] | None, weighted: bool) -> None:
    rows = torch.empty(BATCH, 8)
    counts = balanced_weights(torch.empty(BATCH)) if weighted else None
    hard = HardNegatives(rows[:, None], torch.empty(()), 0.5, weights)
    loss, _ = info_nce(rows, rows, torch.empty(16, 8), temperature=0.2, hard=hard, weights_B=counts)
    assert loss.device.type == "cuda"
    both = torch.empty(2 * BATCH, 8)
    loss, _ = nt_xent(
        both,
        both,
        temperature=0.2,
        own=slice(BATCH, None),
        hard=hard._replace(rows_AND=both[:, None]),
        weights_G=None if counts is None else counts.repeat(2),
    )
    assert loss.device.type == "cuda"


def test_lars() -> None:
    parameters = [nn.Parameter(torch.empty(4, 3)), nn.Parameter(torch.empty(4))]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimiser = LARS(parameters, lr=0.1, weight_decay=1e-6)
    optimiser.step()
    assert all(p.device.type == "cuda" for p in parameters)
