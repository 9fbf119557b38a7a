"""The protocols by name. A new one: a function here or in a file of its own, and a line below.

Detection, whose images have boxes, lies in a room of its own (`training.evaluate.detection`).
A protocol is called by every rank with the same arguments, splits its work over them, and returns
the same results everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.core.progress import say
from training.core.distributed import rank
from training.evaluate.backgrounds_protocol import backgrounds
from training.evaluate.config import DETECTION, EvaluateConfig
from training.evaluate.diagnostics import diagnose
from training.evaluate.extract import ExtractConfig, Features, gathered_features
from training.evaluate.finetune import balanced_subset, finetuned
from training.evaluate.knn import knn_predict
from training.evaluate.labelled import LabelledImages
from training.evaluate.linear import linear_probe
from training.evaluate.linear_paper import paper_probe
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


def knn(case: Case) -> list[Result]:
    """Weighted k nearest neighbours on frozen features."""
    config = case.config
    predicted_V = knn_predict(
        *case.features_train,
        case.features_val[0],
        k=config.k,
        temperature=config.temperature,
        num_classes=case.num_classes,
    )
    settings = case.view | {"k": config.k, "temperature": config.temperature}
    return [case.accuracy("knn", predicted_V, settings=settings)]


def linear(case: Case) -> list[Result]:
    """The fast probe: logistic regression on frozen features, L2 chosen on a part of training."""
    found = linear_probe(
        *case.features_train,
        *case.features_val,
        num_classes=case.num_classes,
        seed=case.config.seed,
    )
    settings = case.view | {"strength": found.strength}
    return [case.accuracy("linear", found.predicted_V, settings=settings)]


def linear_paper(case: Case) -> list[Result]:
    """The paper's probe: SGD on augmented views of the frozen backbone."""
    predicted_V = paper_probe(
        case.subject.network,
        case.train,
        case.features_val,
        case.config.linear_paper,
        prepare=case.subject.prepare,
        view_size=case.extract.view_size,
        device=case.device,
        seed=case.config.seed,
        num_threads=case.extract.num_threads,
        autocast_dtype=case.extract.autocast_dtype,
    )
    settings = case.view | asdict(case.config.linear_paper)
    return [case.accuracy("linear_paper", predicted_V, settings=settings)]


def finetune(case: Case) -> list[Result]:
    """The whole network trained on shares of the labels, each drawn several times."""
    config, results = case.config.finetune, []
    for share in config.shares:
        predicted: list[Tensor] = []
        for draw in range(1 if share == 1 else config.draws):
            chosen = balanced_subset(case.train.labels(), share, seed=case.config.seed, draw=draw)
            tuned = finetuned(
                case.subject.network,
                case.subject.info.feature_dim,
                case.train,
                chosen,
                config,
                prepare=case.subject.prepare,
                view_size=case.extract.view_size,
                device=case.device,
                seed=case.config.seed,
                num_threads=case.extract.num_threads,
                autocast_dtype=case.extract.autocast_dtype,
            )
            logits_VK, _ = gathered_features(
                tuned, case.val, case.extract, prepare=case.subject.prepare, device=case.device
            )
            predicted.append(logits_VK.argmax(dim=1))
        results.append(
            case.accuracy(
                "finetune",
                torch.stack(predicted),
                variant=f"{100 * share:g} %",
                num_train=len(chosen),
                settings=case.view | asdict(config) | {"share": share},
            )
        )
    return results


def diagnostics(case: Case) -> list[Result]:
    """Figures of the features themselves, without labels."""
    if case.val.saliency_source is None and rank() == 0:
        say(f"diagnostics: {case.val.root} has no saliency: random patches alone are masked")
    figures = diagnose(
        case.subject,
        case.val,
        case.config.diagnostics,
        features_VD=case.features_val[0],
        device=case.device,
        seed=case.config.seed,
        batch_size=case.config.batch_size,
    )
    settings = case.view | asdict(case.config.diagnostics)
    return [
        case.result(
            "diagnostics",
            figure.name,
            figure.value,
            variant=figure.variant,
            interval=figure.interval,
            settings=settings | figure.settings,
        )
        for figure in figures
    ]


PROTOCOLS: dict[str, Callable[[Case], list[Result]]] = {
    "knn": knn,
    "linear": linear,
    "linear_paper": linear_paper,
    "finetune": finetune,
    "backgrounds": backgrounds,
    "diagnostics": diagnostics,
}

LABEL_FREE = frozenset({"diagnostics"})
"""Protocols that need no labels: with these alone, classes are not compared."""


def chosen_protocols(names: Sequence[str]) -> list[Callable[[Case], list[Result]]]:
    """Look the protocols of labelled images up by name.

    Returns:
        Each once; none for detection.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    for name in names:
        if name not in PROTOCOLS and name != DETECTION:
            known = ", ".join((*PROTOCOLS, DETECTION))
            raise InputError(f"unknown protocol {name!r}: choose from {known}")
    return [PROTOCOLS[name] for name in dict.fromkeys(names) if name != DETECTION]
