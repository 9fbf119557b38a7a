"""A step's tensor functions never wait for the device.

Fake tensors have a device, a shape and no values: reading one (`.item()`, `if tensor`, a boolean
index) raises, and so does mixing devices. So a fake GPU shows both without a GPU.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline.saliency.foreground import foreground
from training.core.distributed import balanced_weights
from training.engine.lars import LARS
from training.methods.losses import Weigh, info_nce, nt_xent, prime_log_weights
from training.randomness.draws import View, negative_view
from training.views.colours import ColourDraws, augment_colours
from training.views.fills import FILLS, UnmaskedView, sample_noise
from training.views.host_batch import HostBatch, Partner
from training.views.inputs import build_inputs
from training.views.mask_config import MaskConfig
from training.views.mask_draws import ExchangeDraws, MaskDraws
from training.views.masks import hard_negative_mask, masked_share, view_mask
from training.views.released import released_foreground, shared_noise
from training.views.strategies import MASK_STRATEGIES

BATCH, GRID, SIZE = 4, 7, 28


@pytest.fixture(autouse=True)
def fake_gpu() -> Iterator[None]:
    with FakeTensorMode(), torch.device("cuda"):
        yield


def image() -> Tensor:
    return torch.empty(BATCH, 3, SIZE, SIZE)


def seeds() -> Tensor:
    return torch.empty(BATCH, dtype=torch.int64)


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


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
@pytest.mark.parametrize("high_pass", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_masks(strategy: str, high_pass: bool, released: bool) -> None:
    marked = (released_foreground if released else foreground)(
        torch.empty(BATCH, GRID, GRID), rule="otsu"
    )
    query = view_mask(
        marked,
        torch.empty(BATCH, GRID, GRID),
        mask_draws(),
        strategy=strategy,
        view_size=SIZE,
        high_pass=high_pass,
        probability=0.5,
        show=0.1,
        released=released,
    )
    negative = hard_negative_mask(
        marked, mask_draws(), view_size=SIZE, high_pass=high_pass, released=released
    )
    for mask in (query, negative):
        assert mask.shape == (BATCH, 3 if high_pass else 1, SIZE, SIZE)
        assert mask.device.type == "cuda"
        assert masked_share(mask, marked)[0].device.type == "cuda"


@pytest.mark.parametrize("name", FILLS)
def test_fills(name: str) -> None:
    fill = FILLS[name]
    noise = partial(sample_noise, seeds(), view=View.QUERY, size=(3, SIZE, SIZE))
    view = UnmaskedView(fill.prepare(image()), image(), noise)
    filled = fill.apply(view, torch.empty(BATCH, 1, SIZE, SIZE, dtype=torch.bool))
    assert filled.shape == image().shape
    assert filled.device.type == "cuda"


@pytest.mark.parametrize("view", [View.QUERY, View.NEGATIVE])
def test_shared_noise(view: View) -> None:
    noise = shared_noise(seeds(), mask_draws(), view=view, view_size=SIZE, grid=GRID)
    assert noise.shape == image().shape
    assert noise.device.type == "cuda"


def colours() -> ColourDraws:
    return ColourDraws(torch.empty(BATCH, 3, 3), torch.empty(BATCH, 3, 3), torch.empty(BATCH, 5))


def test_colours() -> None:
    assert augment_colours(image(), colours()).device.type == "cuda"


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("behaviour", ["paper", "released"])
@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
def test_all_that_goes_before_the_encoders(fill: str, behaviour: str, strategy: str) -> None:
    negatives = (negative_view(View.KEY, 0), negative_view(View.KEY, 1), 3)
    batch = HostBatch(
        sample_ids_B=seeds(),
        noise_seeds_B=seeds(),
        images_VBCHW=torch.empty(2, BATCH, 3, SIZE, SIZE, dtype=torch.uint8),
        saliency_VBGG=torch.empty(2, BATCH, GRID, GRID),
        mask_saliency_VBGG=torch.empty(2, BATCH, GRID, GRID),
        query_colours=colours(),
        key_colours=colours(),
        masks={view: mask_draws() for view in (View.QUERY, View.KEY, *negatives)},
    )
    branch = "query" if strategy == "exchange" else "both"
    masks = MaskConfig(strategy=strategy, branch=branch, behaviour=behaviour)  # type: ignore[arg-type]
    one = ColourDraws(*(part[:1] for part in colours()))
    batch = batch._replace(
        exchange=ExchangeDraws(torch.empty(BATCH), torch.empty(BATCH, GRID * GRID)),
        partner=Partner(
            torch.empty(1, 3, SIZE, SIZE, dtype=torch.uint8), torch.empty(1, GRID, GRID), one
        ),
    )
    inputs = build_inputs(batch, masks=masks, fill=FILLS[fill], negatives=negatives, exchange=0.5)
    assert inputs.exchanged_BCHW is not None
    assert inputs.exchanged_BCHW.device.type == "cuda"
    assert {source: len(cut) for source, cut in inputs.negatives.items()} == {
        View.KEY: 2,
        View.QUERY: 1,
    }
    tensors = [inputs.query_BCHW, inputs.key_BCHW, *inputs.telemetry.values()]
    assert all(tensor.device.type == "cuda" for tensor in tensors)


def weigh(similarity: Tensor, scale: float | Tensor) -> Tensor:
    return prime_log_weights(similarity, scale=scale, power=0.5, bias=0.1)


@pytest.mark.parametrize("weights", [None, weigh])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses(weights: Weigh | None, weighted: bool) -> None:
    rows = torch.empty(BATCH, 8)
    counts = balanced_weights(torch.empty(BATCH)) if weighted else None
    loss, _ = info_nce(
        rows,
        rows,
        torch.empty(16, 8),
        temperature=0.2,
        hard_negatives_BND=rows[:, None],
        rho=torch.empty(()),
        weigh=weights,
        weights_B=counts,
    )
    assert loss.device.type == "cuda"
    loss, _ = nt_xent(
        rows,
        rows,
        temperature=0.2,
        all_view1_GD=torch.empty(2 * BATCH, 8),
        all_view2_GD=torch.empty(2 * BATCH, 8),
        first_row=BATCH,
        hard_negatives1_BND=rows[:, None],
        hard_negatives2_BND=rows[:, None],
        rho=torch.empty(()),
        weigh=weights,
        weights_B=counts,
        all_weights_G=None if counts is None else counts.repeat(2),
    )
    assert loss.device.type == "cuda"


def test_lars() -> None:
    parameters = [nn.Parameter(torch.empty(4, 3)), nn.Parameter(torch.empty(4))]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimiser = LARS(parameters, lr=0.1, weight_decay=1e-6)
    optimiser.step()
    assert all(p.device.type == "cuda" for p in parameters)
