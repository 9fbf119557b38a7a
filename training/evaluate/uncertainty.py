"""The protocol `uncertainty`: does what an encoder and its classifiers are unsure of tell errors?

The errors are those of the fast linear probe. Four uncertainties are compared on them:

- masked_views: u(x) = 1 - | mean of z over masked views of x |, z the unit embedding of the
  projection head, or the unit features where a checkpoint has no head;
- knn_margin: 1 - the lead of the best class over the next one, of the neighbours' votes;
- probe: 1 - the probability of its class;
- laplace: the same under a Laplace approximation over the probe's weights.

Shapes: M validation images, K classes, B batch, S side of the view, G grid side, N masked
views, D embedding.
"""

from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.errors import InputError, check
from pipeline.saliency.foreground import foreground
from training.config.file import config_from_json
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.encoders.export import EncoderName, load_head
from training.evaluate.calibration import calibration_error, error_auroc, estimate
from training.evaluate.case import Case
from training.evaluate.config import DiagnosticsConfig
from training.evaluate.diagnostics import fill_of
from training.evaluate.encoders import NamedEncoder
from training.evaluate.features import CPU_ROWS, in_batches
from training.evaluate.frozen import knn_votes, linear_probe
from training.evaluate.intervals import bootstrap_interval, mean_interval
from training.evaluate.laplace import laplace, mean_softmax
from training.evaluate.results import Result
from training.methods.interface import unit_rows
from training.randomness.draws import sample_seeds, torch_seeds
from training.views.fills import FILLS, UnmaskedView, sample_noise
from training.views.maskers import MaskerInputs, strategy_masker
from training.views.patches import MASK_STRATEGIES
from training.views.settings import MaskConfig, ViewConfig

NOT_OF_THE_VIEW = ("none", "shuffled", "exchange")
"""Strategies that mask nothing, or want another image."""


def uncertainty(case: Case) -> list[Result]:
    """The protocol, on validation images; the ranks share the masked views.

    Raises:
        InputError: fewer than two classes.
    """
    config, seed, num_classes = case.config.uncertainty, case.config.seed, case.num_classes
    check(num_classes >= 2, f"uncertainty wants two classes or more in {case.train.root}")
    labels_M = case.features_val[1].cpu()
    probe = linear_probe(
        *case.features_train, *case.features_val, num_classes=num_classes, seed=seed
    )
    right_M = (probe.predicted_V.cpu() == labels_M).numpy()
    train_MD, val_MD = (F.pad(x, (0, 1), value=1.0) for x in (probe.train_MD, probe.val_VD))
    logits = laplace(probe.weights, train_MD, val_MD, precision=probe.strength * len(train_MD))
    probabilities = {
        "probe": (val_MD @ probe.weights.T).double().softmax(dim=1).cpu(),
        "laplace": mean_softmax(*logits, seed=seed),
    }
    voting: dict[str, Any] = {"k": case.config.k, "temperature": case.config.temperature}
    given = (*case.features_train, case.features_val[0])
    votes_MK = knn_votes(*given, num_classes=num_classes, **voting).double().cpu()
    best_M2 = (votes_MK / votes_MK.sum(dim=1, keepdim=True)).topk(2).values
    apart_M, masking = masked_views(case)
    uncertain = {"masked_views": apart_M, "knn_margin": 1 - (best_M2[:, 0] - best_M2[:, 1])}

    found: list[tuple[str, str, tuple[float, tuple[float, float]]]] = []
    for name, p_MK in probabilities.items():
        loss_M = -p_MK.gather(1, labels_M[:, None])[:, 0].clamp_min(1e-300).log().numpy()
        found.append(("nll", name, (float(loss_M.mean()), mean_interval(loss_M, seed=seed))))
        top_M, class_M = p_MK.max(dim=1)
        marks = top_M.numpy(), (class_M == labels_M).numpy()
        found.append(("calibration_error", name, estimate(calibration_error, *marks, seed=seed)))
        uncertain[name] = 1 - top_M
    for name, u_M in uncertain.items():
        found.append(("error_auroc", name, estimate(error_auroc, u_M.numpy(), ~right_M, seed=seed)))
        num_kept = max(1, round(config.certain * len(u_M)))
        kept = right_M[np.argsort(u_M.numpy(), kind="stable")[:num_kept]]
        top1 = 100 * float(kept.mean()), bootstrap_interval(kept, seed=seed)
        found.append(("certain_top1", name, top1))
    settings = asdict(config) | masking | voting | {"strength": probe.strength}
    return [
        case.result(
            "uncertainty", name, figure, variant=variant, interval=interval, settings=settings
        )
        for name, variant, (figure, interval) in found
    ]


@torch.no_grad()
def masked_views(case: Case) -> tuple[Tensor, dict[str, Any]]:
    """u(x) of validation images, float64 [M], and the settings that it depends on.

    Test-time views are masked as the run masks its queries; without saliency all is foreground.
    """
    encoder, size, seed = case.encoder, case.encoder.view_size, case.config.seed
    fill, (masks, grid) = FILLS[fill_of(encoder)], masking_of(encoder, case.config.diagnostics)
    masker, cut = strategy_masker(masks, fill.high_pass), ViewConfig(size=size, grid=grid)
    is_run = encoder.kind in get_args(EncoderName)
    head = load_head(encoder.name, encoder.kind) if is_run else None
    embed = nn.Identity() if head is None else head.to(encoder.device)
    rows = CPU_ROWS if encoder.device.type == "cpu" else encoder.batch_size
    found = [torch.zeros(0, dtype=torch.float64)]
    mine = np.array_split(np.arange(case.val.num_images), world_size())[rank()]
    for batch in in_batches(mine, rows, "uncertainty"):
        image01_BCSS, saliency_BGG = encoder.centre_views(case.val, batch, grid=grid)
        if saliency_BGG is None:
            saliency_BGG = torch.zeros(len(batch), grid, grid)
        rule, threshold = masks.foreground, masks.foreground_threshold
        object_BGG = foreground(saliency_BGG, rule=rule, threshold=threshold)
        inputs = MaskerInputs(object_BGG, saliency_BGG, size, None)
        prepared_BCSS, seeds_B = encoder.prepare(image01_BCSS), sample_seeds(seed, 0, batch)
        on_device_B, embedded = torch_seeds(seeds_B).to(encoder.device), []
        for name in (f"uncertain-{number}" for number in range(case.config.uncertainty.views)):
            shape = image01_BCSS.shape[1], size, size
            noise = partial(sample_noise, on_device_B, view=name, size=shape, std=masker.noise_std)
            statistics = encoder.info.normalisation
            view = UnmaskedView(prepared_BCSS, image01_BCSS, noise, statistics)
            mask = masker.mask(masker.draw(seeds_B, view=name, cut=cut), inputs)
            seen_BCSS = fill.apply(view, mask.to(encoder.device))
            embedded.append(unit_rows(embed(encoder.forward_prepared(seen_BCSS).float())))
        found.append(disagreement(torch.stack(embedded)).cpu())
    about = {"strategy": masks.strategy, "ratio": masker.ratio, "grid": grid}
    about |= {"fill": fill_of(encoder), "embedding": "features" if head is None else "head"}
    return gather_rows_of_any_number(torch.cat(found)), about


def disagreement(rows_NBD: Tensor) -> Tensor:
    """1 - the length of the mean of N unit rows, float64 [B]: from 0, where all are one, to 1."""
    length_B: Tensor = rows_NBD.double().mean(dim=0).norm(dim=1)
    return (1 - length_B).clamp_min(0.0)


def masking_of(encoder: NamedEncoder, default: DiagnosticsConfig) -> tuple[MaskConfig, int]:
    """How a run masks its queries, and its grid, as far as its export tells.

    Every view is masked. Of strategies that a single view cannot have it becomes `balanced`.
    """
    masks, grid = MaskConfig(), 0
    with suppress(InputError, KeyError):  # no run's, or of a version with other names
        run = config_from_json(encoder.info.provenance["config"], shards="", out=Path())
        masks, grid = run.masks, run.views.grid
    if masks.strategy not in MASK_STRATEGIES or masks.strategy in NOT_OF_THE_VIEW:
        masks = replace(masks, strategy="balanced")
    fits = grid and encoder.view_size % grid == 0
    return replace(masks, probability=1.0), grid if fits else default.grid_of(encoder.view_size)
