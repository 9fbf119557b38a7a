"""An export in several formats: one folder, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from pipeline.backbone.card import Figure, model_card
from pipeline.backbone.folder import BackboneInfo, write_backbone
from pipeline.backbone.formats.registry import chosen_formats


def write_formats(
    folder: Path,
    network: nn.Module,
    info: BackboneInfo,
    formats: Sequence[str],
    figures: Sequence[Figure] = (),
) -> BackboneInfo:
    """Write the state dict with its JSON, the formats, and a model card that tells of them all.

    Args:
        folder: of the export; an earlier export is replaced.
        network: plain, as `load_backbone` gives it.
        info: what `load_backbone` said of it.
        formats: names of `FORMATS`.
        figures: what the backbone is worth, for the card.

    Returns:
        `info` with the digest of the weights.

    Raises:
        InputError: an unknown format, one that this network has no layout in or whose library is
            not installed, or a folder with something else in it; nothing is written then.
    """
    chosen = chosen_formats(formats)
    for one in chosen.values():
        one.check(info)
    usages = [(name, one.usage(info)) for name, one in chosen.items()]

    def write_more(fresh: Path, written: BackboneInfo) -> None:
        for one in chosen.values():
            one.write(fresh, network, written)

    return write_backbone(
        folder,
        network.state_dict(),
        info,
        card=lambda written: model_card(written, usages=usages, figures=figures),
        write_more=write_more,
    )
