"""The generator of learned masks in a run: its step after the encoder's, and its state."""

import copy
from typing import Any

import torch
from torch import Tensor

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
    between_images,
    mix_at,
    new_generator,
    random_patches,
)
from training.views.patches import patches_to_pixels
from training.views.spec import ViewSpec, with_generator

LARGEST_GRADIENT = 1.0
"""Norm to which the generator's gradient is clipped."""


class Adversary:
    """Trains a generator to choose the masks under which the method's loss is greatest.

    Every rank has a copy, which stays the same: gradients are averaged.
    """

    def __init__(self, config: PretrainConfig, fill: Fill, device: torch.device) -> None:
        self.settings, self.fill = config.masks.learned, fill
        self.generator = new_generator(self.settings, config.views).to(device)
        self.parameters = list(self.generator.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.settings.lr)

    def bind(
        self, views: tuple[ViewSpec, ...], moment: Moment, *, on_cpu: bool = False
    ) -> tuple[ViewSpec, ...]:
        """The views as they are masked at a moment, by the generator as it is, or a copy of it."""
        generator = copy.deepcopy(self.generator).cpu() if on_cpu else self.generator
        return with_generator(views, generator, mix_at(self.settings, moment))

    def step(
        self,
        method: Method,
        query: ViewSpec,
        batch: HostBatch,
        inputs: EncoderInputs,
        result: StepResult,
        autocast: torch.dtype | None,
    ) -> StepResult:
        """Move the generator up the loss of the queries under its masks, less the area penalty.

        The query is bound; batch, inputs and result are those of the encoder's step. Only the
        generator changes. Returns the result with what was measured.
        """
        masker, draws, view = query.masker, batch.masks[QUERY], inputs.unmasked[QUERY]
        assert isinstance(masker, LearnedMasker)
        chosen, values = masker.choose(draws, view.prepared_BCHW), self.fill.values(view)

        def loss_under(mask_BN: Tensor) -> Tensor:
            mask = patches_to_pixels(mask_BN[:, None], view.prepared_BCHW.shape[-1])
            query_BCHW = (1 - mask) * view.prepared_BCHW + mask * values
            with torch.autocast(query_BCHW.device.type, autocast, enabled=autocast is not None):
                return method.adversary_loss(query_BCHW, result.kept)

        loss = loss_under(chosen.mask_BN)
        # Not `backward`, which would add to the encoder's gradients and run its wrapper's hooks.
        self._update(torch.autograd.grad(chosen.penalty - loss, self.parameters))
        found = {"learned_loss": loss.detach(), BETWEEN_IMAGES: between_images(chosen.logits_BKN)}
        if self.settings.compare:
            with torch.no_grad():
                plain = loss_under(random_patches(draws, chosen.mask_BN))
            found["learned_minus_random"] = loss.detach() - plain
        said = result.settings | {MIX: masker.mix}
        return result._replace(metrics=result.metrics | found, settings=said)

    def _update(self, gradients: tuple[Tensor, ...]) -> None:
        """Average over the ranks in one reduction, clip, and step."""
        flat = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
        flat = flat * (LARGEST_GRADIENT / (flat.norm() + 1e-12)).clamp(max=1)
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

    def state_dict(self, moment: Moment) -> dict[str, Any]:
        """For a checkpoint; `mix` says what `mix_at` gives."""
        states = {"generator": self.generator.state_dict(), "mix": mix_at(self.settings, moment)}
        return states | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
