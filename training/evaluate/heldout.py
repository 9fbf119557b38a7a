"""The contrastive loss on images that a run does not see, with a frozen bank of negatives.

Validation loss tracks how well a network transfers as data and epochs grow (Xie et al., "On Data
Scaling in Masked Image Modeling", CVPR 2023, for reconstruction; here the loss is contrastive).

Shapes: M images, D embedding, K images of the bank.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.core.errors import check
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.shardset.shared_images import counted, hashed_shards, shared_images
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.config.settings import HeldoutConfig
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.data.stream import BatchDataset, StreamConfig
from training.evaluate.features import evaluation_mode
from training.methods.moco.method import info_nce
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
    """Check the held-out shards.

    Raises:
        InputError: they are missing or damaged, too few, or share images (by the sha256 of their
            files) with those that are trained on.
    """
    shards = config.shards
    assert shards is not None
    info = load_dataset_info(shards)
    check_shards(shards, info)
    check(
        info.num_images >= FEWEST_IMAGES,
        f"heldout.shards {shards} holds {info.num_images} images: wanted at least {FEWEST_IMAGES}",
    )
    train = hashed_shards(train_root, load_dataset_info(train_root))
    shared = shared_images(train, hashed_shards(shards, info))
    check(
        not shared,
        f"heldout.shards {shards} shares {counted(shared)} with the images that are trained on, "
        f"{train_root}: give others",
    )
    return info


def heldout_loss(
    encoder: nn.Module,
    config: PretrainConfig,
    *,
    fill: Fill,
    device: torch.device,
    autocast: torch.dtype | None = None,
    carry: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> float:
    """InfoNCE of held-out images against the bank; called by every rank, who split the work.

    Both views go through the encoder (images to unit rows) as it stands, in evaluation mode,
    unmasked, prepared as the run's fill does, with the default colours and crops: -log of
    exp(q.k / t) over itself plus the sum over the bank, the mean. `carry` joins view and mask where
    the network sees masks.

    Returns:
        The loss in nats, the same on every rank; of embeddings without any order log(K + 1).
    """
    shards = config.heldout.shards
    assert shards is not None
    info = load_dataset_info(shards)
    settings = ViewSettings(
        cut=ViewConfig(size=config.views.size, grid=config.views.grid),
        masks=MaskConfig(strategy="none"),
        fill=fill,
    )
    stream = StreamConfig(
        seed=HELDOUT_SEED,
        batch_size=min(LARGEST_BATCH, info.num_images),
        views=(settings.query(), settings.key()),
        augment=AugmentConfig(),
        on_damaged=config.on_damaged,
    )
    dataset = BatchDataset(shards, info, stream, rank=0, world_size=1, cache=config.cache)
    first, last = (dataset.steps_per_epoch * (rank() + i) // world_size() for i in (0, 1))
    pairs: list[Tensor] = []
    with evaluation_mode(encoder), torch.no_grad():
        for step in range(first, last):
            batch = to_device(dataset[step], device)
            inputs = build_inputs(batch, stream.views, masks=settings.masks, fill=fill)
            if carry is not None:
                inputs = join_masks(inputs, stream.views, carry)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                both = tuple(encoder(inputs.views[name]) for name in (QUERY, KEY))
            pairs.append(torch.stack(both, dim=1).float())
    # A rank without a batch still takes part; it learns the width from the others.
    width = torch.tensor([pairs[0].shape[2] if pairs else 0], device=device)
    widest = int(gather_rows_of_any_number(width).max())
    own_M2D = torch.cat([torch.empty((0, 2, widest), device=device), *pairs])
    return bank_loss(gather_rows_of_any_number(own_M2D).cpu(), config.heldout)


def bank_loss(pairs_M2D: Tensor, config: HeldoutConfig) -> float:
    """InfoNCE of pairs of query and key; the keys of the first images are the bank."""
    bank = min(config.bank_size, len(pairs_M2D) // 2)
    query_MD, key_MD = pairs_M2D[bank:].unbind(dim=1)
    loss, _ = info_nce(query_MD, key_MD, pairs_M2D[:bank, 1], temperature=config.temperature)
    return float(loss)
