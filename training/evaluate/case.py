"""What a protocol is given: one encoder on one pair of sets."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.evaluate.config import EvaluateConfig
from training.evaluate.extract import ExtractConfig, Features, gathered_features
from training.evaluate.labelled import LabelledImages
from training.evaluate.results import Result
from training.evaluate.score import score
from training.evaluate.subject import Subject


@dataclass
class Case:
    """One encoder on one pair of sets; features are extracted once, when first asked for."""

    subject: Subject
    train: LabelledImages
    val: LabelledImages
    config: EvaluateConfig
    device: torch.device
    extract: ExtractConfig = field(init=False)
    predicted: list[tuple[Result, Tensor, NDArray[np.int64]]] = field(
        init=False, default_factory=list
    )
    """What `accuracy` was given, int64 [D, V] on the CPU, with its result and the images'
    numbers."""

    def __post_init__(self) -> None:
        self.extract = self.subject.extract_config(
            batch_size=self.config.batch_size, bf16=self.config.bf16
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.train.class_names)

    @cached_property
    def features_train(self) -> Features:
        """Of the training images' test-time views, on every rank."""
        return self._features(self.train)

    @cached_property
    def features_val(self) -> Features:
        """Of the validation images."""
        return self._features(self.val)

    def _features(self, images: LabelledImages) -> Features:
        return gathered_features(
            self.subject.network,
            images,
            self.extract,
            prepare=self.subject.prepare,
            device=self.device,
        )

    def result(self, protocol: str, name: str, figure: float, **more: Any) -> Result:  # noqa: ANN401
        """A result of this case."""
        return Result(
            checkpoint=self.subject.name,
            encoder=self.subject.encoder,
            architecture=self.subject.info.architecture,
            checkpoint_digest=self.subject.digest,
            train=str(self.train.root),
            val=str(self.val.root),
            train_digest=self.train.digest,
            val_digest=self.val.digest,
            protocol=protocol,
            seed=self.config.seed,
            name=name,
            figure=figure,
            **(
                {
                    "interval": None,
                    "num_train": self.train.num_images,
                    "num_val": self.val.num_images,
                }
                | more
            ),
        )

    def accuracy(
        self,
        protocol: str,
        predicted: Tensor,
        *,
        numbers: NDArray[np.int64] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Result:
        """The result of predictions for validation images, which are kept in `predicted`.

        Args:
            protocol: by name.
            predicted: int64 [V], or [D, V] of D draws of training labels.
            numbers: of the V validation images, rising; none: all of them.
            more: fields of the result.
        """
        predicted_DV = torch.atleast_2d(predicted.cpu())
        numbers = np.arange(self.val.num_images) if numbers is None else numbers
        labels_V = torch.from_numpy(self.val.labels()[numbers])
        more["num_val"] = len(numbers)
        found = score(predicted_DV, labels_V, num_classes=self.num_classes, seed=self.config.seed)
        shown = {"mean_per_class": found.mean_per_class}
        if len(predicted_DV) > 1:
            right_D = (predicted_DV == labels_V).double().mean(dim=1)
            shown |= {f"draw {draw}": 100 * right for draw, right in enumerate(right_D.tolist())}
        result = self.result(
            protocol, "top1", found.top1, interval=found.interval, more=shown, **more
        )
        self.predicted.append((result, predicted_DV, numbers))
        return result

    @property
    def view(self) -> dict[str, Any]:
        """What figures depend on beside the protocol's own settings."""
        return {
            "view_size": self.extract.view_size,
            "bf16": self.config.bf16,
            "device": self.device.type,
        }
