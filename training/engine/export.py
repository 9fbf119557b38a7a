"""Export a run's backbone as it stands."""

from pathlib import Path

from pipeline.backbone.info import BackboneInfo
from pipeline.images.gaussian import scaled_kernel
from training.config.pretrain import PretrainConfig
from training.encoders.encoder import Backbone
from training.encoders.export import export_backbone
from training.views.fills import HIGH_PASS_AT_224, fill_named


def export_run(
    folder: Path,
    backbone: Backbone,
    config: PretrainConfig,
    *,
    data_digest: str,
    step: int,
    epochs: float,
) -> BackboneInfo:
    """Write a run's backbone as it stands, with the run's preprocessing and where it comes from.

    Args:
        folder: of the export.
        backbone: the query encoder.
        config: of the run.
        data_digest: of the shards it learned from.
        step: global steps done.
        epochs: epochs done.
    """
    size = config.views.size
    return export_backbone(
        folder,
        backbone,
        config.encoder,
        view_size=size,
        high_pass=scaled_kernel(*HIGH_PASS_AT_224, size)
        if fill_named(config.fill).high_pass
        else None,
        provenance={
            "data_digest": data_digest,
            "step": step,
            "epochs": epochs,
            "config": config.to_json(),
        },
    )
