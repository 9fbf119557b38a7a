"""The contrastive loss on images that a run does not see, with a frozen bank of negatives.

Validation loss tracks what a network is good for as data and epochs grow (Xie et al., "On Data
Scaling in Masked Image Modeling", CVPR 2023, who ask it of reconstruction; here of contrast).

Shapes: M images, D embedding, K images of the bank.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.shardset.cache import CacheConfig
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.shardset.shared_images import HashedShards, counted, shared_images
from pipeline.storage.storage import Location
from training.config.settings import HeldoutConfig
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.data.settings import OnDamaged
from training.data.stream import BatchDataset, StreamConfig
from training.methods.losses import info_nce
from training.randomness.draws import KEY, QUERY
from training.views.fills import Fill
from training.views.inputs import build_inputs, join_masks, to_device
from training.views.settings import AugmentConfig, MaskConfig, ViewConfig
from training.views.spec import ViewSettings

HELDOUT_SEED = 0x48454C44
"""Of the held-out views, whatever the run's own seed is."""
LARGEST_BATCH = 64
FEWEST_IMAGES = 4


def check_heldout(train_root: Location, config: HeldoutConfig) -> DatasetInfo:
    """Checks the held-out shards.

    Raises:
        InputError: they are missing or damaged, too few, or share images (by the sha256 of their
            files) with those that are trained on.
    """
    assert config.shards is not None
    info = load_dataset_info(config.shards)
    check_shards(config.shards, info)
    if info.num_images < FEWEST_IMAGES:
        raise InputError(
            f"heldout.shards {config.shards} holds {info.num_images} images: wanted at least "
            f"{FEWEST_IMAGES}"
        )
    train = HashedShards(train_root, load_dataset_info(train_root))
    shared = shared_images(train, HashedShards(config.shards, info))
    if shared:
        raise InputError(
            f"heldout.shards {config.shards} shares {counted(shared)} with the images that are "
            f"trained on, {train_root}: give others"
        )
    return info


def heldout_loss(
    encoder: nn.Module,
    config: HeldoutConfig,
    *,
    views: ViewConfig,
    fill: Fill,
    device: torch.device,
    on_damaged: OnDamaged,
    cache: CacheConfig | None = None,
    autocast: torch.dtype | None = None,
    carry: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> float:
    """InfoNCE of held-out images against the bank; called by every rank, who split the work.

    Both views go through the encoder as it stands, in evaluation mode, unmasked, with the default
    colours and crops: -log of exp(q.k / t) over itself plus the sum over the bank, the mean.

    Args:
        encoder: images to unit rows [., D]; left as it is.
        config: shards, bank and temperature.
        views: of the run, for size and grid.
        fill: of the run, for how it prepares views (high pass).
        device: that computes.
        on_damaged: what becomes of damaged samples.
        cache: where shards of a bucket lie while they are read.
        autocast: compute in this type.
        carry: view and mask to what the network takes, where it sees masks.

    Returns:
        The loss in nats, the same on every rank; of embeddings without any order log(K + 1).
    """
    assert config.shards is not None
    info = load_dataset_info(config.shards)
    batch_size = min(LARGEST_BATCH, info.num_images)
    settings = ViewSettings(
        cut=ViewConfig(size=views.size, grid=views.grid),
        masks=MaskConfig(strategy="none"),
        fill=fill,
    )
    stream = StreamConfig(
        seed=HELDOUT_SEED,
        batch_size=batch_size,
        views=(settings.query(), settings.key()),
        augment=AugmentConfig(),
        on_damaged=on_damaged,
    )
    dataset = BatchDataset(config.shards, info, stream, rank=0, world_size=1, cache=cache)
    steps = dataset.steps_per_epoch
    mine = range(steps * rank() // world_size(), steps * (rank() + 1) // world_size())
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    pairs: list[Tensor] = []
    try:
        with torch.no_grad():
            for step in mine:
                batch = to_device(dataset[step], device)
                inputs = build_inputs(batch, stream.views, masks=settings.masks, fill=fill)
                if carry is not None:
                    inputs = join_masks(inputs, stream.views, carry)
                with torch.autocast(device.type, autocast, enabled=autocast is not None):
                    both = tuple(encoder(inputs.views[name]) for name in (QUERY, KEY))
                pairs.append(torch.stack(both, dim=1).float())
    finally:
        for module, training in modes:
            module.training = training
    return _loss(_gathered(pairs, device), config)


def _gathered(pairs: list[Tensor], device: torch.device) -> Tensor:
    """Query and key of every image, [M, 2, D], in the order of the ranks."""
    # A rank without a batch still takes part; it learns the width from the others.
    width = gather_rows_of_any_number(
        torch.tensor([pairs[0].shape[2] if pairs else 0], device=device)
    ).max()
    own = torch.cat(pairs) if pairs else torch.empty((0, 2, int(width)), device=device)
    return gather_rows_of_any_number(own)


def _loss(pairs_M2D: Tensor, config: HeldoutConfig) -> float:
    bank = min(config.bank_size, len(pairs_M2D) // 2)
    query_MD, key_MD = pairs_M2D[bank:].to("cpu").unbind(dim=1)
    loss, _ = info_nce(
        query_MD, key_MD, pairs_M2D[:bank, 1].to("cpu"), temperature=config.temperature
    )
    return float(loss)
