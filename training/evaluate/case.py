"""What a protocol is given: one encoder on one pair of sets. Features are extracted once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.core.distributed import rank
from training.evaluate.config import EvaluateConfig
from training.evaluate.encoders import NamedEncoder
from training.evaluate.features import Features
from training.evaluate.intervals import accuracy_interval
from training.evaluate.labelled import LabelledImages
from training.evaluate.results import Predictions, Result, write_predictions


@dataclass
class Case:
    """One encoder, the images to learn from and to score on, and the settings."""

    encoder: NamedEncoder
    train: LabelledImages
    val: LabelledImages
    config: EvaluateConfig

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.train.class_names)

    @cached_property
    def features_train(self) -> Features:
        """Of the training images' test-time views, on every rank."""
        return self.encoder.features(self.train)

    @cached_property
    def features_val(self) -> Features:
        """Of the validation images."""
        return self.encoder.features(self.val)

    def result(self, protocol: str, name: str, figure: float, **fields: Any) -> Result:  # noqa: ANN401
        """A result of this case; its settings also hold view size, precision and device."""
        view = {"view_size": self.encoder.view_size, "bf16": self.config.bf16}
        fields["settings"] = view | {"device": self.encoder.device.type} | fields["settings"]
        fields |= {"protocol": protocol, "name": name, "figure": figure, "seed": self.config.seed}
        return self.encoder.result(self.train, self.val, **fields)

    def accuracy(
        self,
        protocol: str,
        predicted: Tensor,
        *,
        numbers: NDArray[np.int64] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Result:
        """The result of predictions for validation images; the first rank writes them.

        The predictions are int64 [V], or [D, V] of D draws of training labels. `numbers` are those
        of the V images, rising (none: all of them), `more` other fields of the result.
        """
        predicted_DV = torch.atleast_2d(predicted.cpu()).numpy()
        numbers = np.arange(self.val.num_images) if numbers is None else numbers
        labels_V = self.val.labels()[numbers]
        right_DV = predicted_DV == labels_V
        classes = np.unique(labels_V)
        shown = {"mean_per_class": np.mean([right_DV[:, labels_V == k].mean() for k in classes])}
        if len(right_DV) > 1:
            shown |= {f"draw {draw}": right_V.mean() for draw, right_V in enumerate(right_DV)}
        result = self.result(
            protocol,
            "top1",
            100 * float(right_DV.mean()),
            interval=accuracy_interval(right_DV, seed=self.config.seed),
            num_val=len(numbers),
            more={name: 100 * float(share) for name, share in shown.items()},
            **more,
        )
        if rank() == 0:
            names_V, sha256_V = (column[numbers] for column in self.val.sources)
            predictions = Predictions(
                result=result,
                names_V=names_V,
                sha256_V=sha256_V,
                labels_V=labels_V,
                class_names=self.val.class_names,
                predicted_DV=predicted_DV,
            )
            write_predictions(self.config.results, predictions)
        return result
