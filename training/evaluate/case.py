"""What a protocol is given: one encoder on one pair of sets. Features are extracted once."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.core.distributed import rank
from training.evaluate.config import EvaluateConfig
from training.evaluate.encoders import NamedEncoder
from training.evaluate.features import FeatureExtractor, Features
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

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Of the encoder's features."""
        dtype = torch.bfloat16 if self.config.bf16 else None
        batch_size = self.config.batch_size
        return replace(self.encoder.extractor, batch_size=batch_size, autocast_dtype=dtype)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.train.class_names)

    @cached_property
    def features_train(self) -> Features:
        """Of the training images' test-time views, on every rank."""
        return self.extractor.features(self.train)

    @cached_property
    def features_val(self) -> Features:
        """Of the validation images."""
        return self.extractor.features(self.val)

    def result(
        self,
        protocol: str,
        name: str,
        figure: float,
        *,
        settings: dict[str, Any],
        interval: tuple[float, float] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Result:
        """A result of this case; its settings also hold view size, precision and device."""
        view = {
            "view_size": self.extractor.view_size,
            "bf16": self.config.bf16,
            "device": self.extractor.device.type,
        }
        images = {"num_train": self.train.num_images, "num_val": self.val.num_images}
        return Result(
            checkpoint=self.encoder.name,
            encoder=self.encoder.kind,
            architecture=self.encoder.info.architecture,
            checkpoint_digest=self.encoder.digest,
            train=str(self.train.root),
            val=str(self.val.root),
            train_digest=self.train.digest,
            val_digest=self.val.digest,
            protocol=protocol,
            seed=self.config.seed,
            name=name,
            figure=figure,
            interval=interval,
            settings=view | settings,
            **(images | more),
        )

    def accuracy(
        self,
        protocol: str,
        predicted: Tensor,
        *,
        numbers: NDArray[np.int64] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Result:
        """The result of predictions for validation images; the first rank writes them.

        Args:
            protocol: by name.
            predicted: int64 [V], or [D, V] of D draws of training labels.
            numbers: of the V images, rising; none: all of them.
            more: settings and other fields of the result.
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
