"""Some images of a batch, for work in parts that a core's cache holds."""

from training.augment import ColourDraws
from training.data.stream import HostBatch
from training.masking.draws import MaskDraws


def rows_of(batch: HostBatch, start: int, stop: int) -> HostBatch:
    """The images from ``start`` up to ``stop`` with all that was drawn for them, without a copy."""
    rows = slice(start, stop)
    return batch._replace(
        sample_ids_B=batch.sample_ids_B[rows],
        noise_seeds_B=batch.noise_seeds_B[rows],
        images_VBCHW=batch.images_VBCHW[:, rows],
        saliency_VBGG=batch.saliency_VBGG[:, rows],
        mask_saliency_VBGG=batch.mask_saliency_VBGG[:, rows],
        query_colours=ColourDraws(*(part[rows] for part in batch.query_colours)),
        key_colours=ColourDraws(*(part[rows] for part in batch.key_colours)),
        masks={
            view: MaskDraws(*(part[rows] for part in draws)) for view, draws in batch.masks.items()
        },
    )
