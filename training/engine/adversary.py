"""The generator of learned masks in a run: its step after the encoder's, its state, its export.

Shapes: B this rank's batch, C channels, H W pixels, N patches.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.saliency.mask_generator import write_generator
from training.config.pretrain import PretrainConfig
from training.core.distributed import mean_over_ranks
from training.core.schedules import Moment
from training.methods.interface import Method, StepResult
from training.randomness.draws import QUERY
from training.views.fills import Fill
from training.views.inputs import EncoderInputs, HostBatch
from training.views.learned import (
    BETWEEN_IMAGES,
    MIX,
    LearnedMasker,
    area_penalty,
    between_images,
    mix_at,
    new_generator,
    random_patches,
)
from training.views.patches import patches_to_pixels
from training.views.spec import ViewSpec, with_generator


class Adversary:
    """Trains a generator to choose the masks under which the method's loss is greatest.

    Every rank has a copy, which stays the same: gradients are averaged.
    """

    def __init__(self, config: PretrainConfig, fill: Fill, device: torch.device) -> None:
        self.config, self.fill = config, fill
        self.generator = new_generator(config.masks, config.views).to(device)
        self.parameters = list(self.generator.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.masks.learned.lr)

    def bind(self, views: tuple[ViewSpec, ...], moment: Moment) -> tuple[ViewSpec, ...]:
        """The views as they are masked at a moment, by the generator as it is."""
        return with_generator(views, self.generator, mix_at(self.config.masks.learned, moment))

    def step(
        self,
        method: Method,
        query: ViewSpec,
        batch: HostBatch,
        inputs: EncoderInputs,
        result: StepResult,
        autocast: torch.dtype | None,
    ) -> StepResult:
        """One step of the generator; returns the encoder's result with what was measured.

        The generator goes up the loss of the queries under its masks, less the area penalty of
        kind slots. The query is the bound declaration, batch and inputs are those of the encoder's
        step. Only the generator changes.
        """
        settings, masker, view = self.config.masks.learned, query.masker, inputs.unmasked[QUERY]
        assert isinstance(masker, LearnedMasker)
        draws = batch.masks[QUERY]
        chosen, values = masker.choose(draws, view.prepared_BCHW), self.fill.values(view)

        def loss_under(mask_BN: Tensor) -> Tensor:
            mask = patches_to_pixels(mask_BN[:, None], view.prepared_BCHW.shape[-1])
            query_BCHW = (1 - mask) * view.prepared_BCHW + mask * values
            with torch.autocast(query_BCHW.device.type, autocast, enabled=autocast is not None):
                return method.adversary_loss(query_BCHW, result.kept)

        loss = loss_under(chosen.mask_BN)
        objective = -loss
        if settings.kind == "slots" and settings.area_penalty:
            objective = objective + settings.area_penalty * area_penalty(chosen.soft_BKN)
        # Not `backward`: the encoder's gradients, and the hooks of its wrapper, are left alone.
        self._update(torch.autograd.grad(objective, self.parameters))
        loss = loss.detach()
        found = {"learned_loss": loss, BETWEEN_IMAGES: between_images(chosen.logits_BKN)}
        if settings.compare:
            with torch.no_grad():
                found["learned_minus_random"] = loss - loss_under(
                    random_patches(draws, chosen.mask_BN)
                )
        said = result.settings | {MIX: masker.mix}
        return result._replace(metrics=result.metrics | found, settings=said)

    def _update(self, gradients: tuple[Tensor, ...]) -> None:
        """Average over the ranks in one reduction, clip, and step."""
        flat = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
        flat = flat * (self.config.masks.learned.clip / (flat.norm() + 1e-12)).clamp(max=1)
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

    def state_dict(self, moment: Moment) -> dict[str, Any]:
        """For a checkpoint, with the share of learned masks at its moment."""
        mix = mix_at(self.config.masks.learned, moment)
        states = {"generator": self.generator.state_dict(), "mix": mix}
        return states | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint; the share of learned masks follows from the step."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Writes the generator for the saliency source `learned`."""
        write_generator(folder, self.generator, provenance)
