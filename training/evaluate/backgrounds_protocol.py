"""The protocol `backgrounds`: accuracies and differences of objects on other backgrounds.

Shapes: K images with an object that can be cut out, X pictures of each, D features.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.progress import say
from training.core.distributed import rank
from training.evaluate.backgrounds import is_approximate, judged, swap_backgrounds
from training.evaluate.intervals import mean_interval
from training.evaluate.knn import knn_predict
from training.evaluate.linear import linear_probe
from training.evaluate.results import Result

if TYPE_CHECKING:  # the list of protocols imports this one
    from training.evaluate.protocols import Case


def backgrounds(case: "Case") -> list[Result]:
    """Objects on other backgrounds, by kNN and by the fast probe, fitted on training images.

    "any of N" is the rule of ImageNet-9's challenge on N drawn backgrounds: of all images, the
    share that is right on every one of them.
    """
    config = case.config
    swapped = swap_backgrounds(
        case.subject,
        case.val,
        config.backgrounds,
        case.extract,
        features_VD=case.features_val[0],
        device=case.device,
        seed=config.seed,
    )
    numbers_K, approximate = swapped.numbers_K, is_approximate(case.val)
    if rank() == 0:
        left_out = ", ".join(f"{count} {why}" for why, count in swapped.left_out.items())
        say(f"backgrounds: {len(numbers_K)} images; {left_out}")
    features = swapped.features_XKD.flatten(0, 1).to(case.device)
    labels_K = torch.from_numpy(case.val.labels()[numbers_K])
    by_knn = knn_predict(
        *case.features_train,
        features,
        k=config.k,
        temperature=config.temperature,
        num_classes=case.num_classes,
    )
    by_probe = linear_probe(
        *case.features_train,
        features,
        labels_K.repeat(len(swapped.features_XKD)),
        num_classes=case.num_classes,
        seed=config.seed,
    )
    settings = case.view | asdict(config.backgrounds)
    settings |= {"approximate": approximate, "left_out": swapped.left_out}

    def variant(*words: str) -> str:
        return " ".join(filter(None, (*words, "approximate" if approximate else "")))

    def mean(name: str, values_K: NDArray[np.float64], words: str, **more: Any) -> Result:  # noqa: ANN401
        return case.result(
            "backgrounds",
            name,
            100 * float(values_K.mean()),
            interval=mean_interval(100 * values_K, seed=config.seed),
            variant=variant(words),
            num_val=len(numbers_K),
            settings=settings | more,
        )

    results = []
    for classifier, predicted, more in (
        ("", by_knn, {"k": config.k, "temperature": config.temperature}),
        ("linear", by_probe.predicted_V, {"strength": by_probe.strength}),
    ):
        found = judged(predicted.cpu().reshape(-1, len(numbers_K)), labels_K)
        results += [
            case.accuracy(
                "backgrounds",
                predicted_K,
                numbers=numbers_K,
                variant=variant(name, classifier),
                settings=settings | more,
            )
            for name, predicted_K in found.items()
        ]
        right = {name: (predicted_K == labels_K).numpy() for name, predicted_K in found.items()}
        gap_K = right["same"].astype(np.float64) - right["other"]
        results.append(mean("background_gap", gap_K, classifier, **more))
    return [*results, mean("nearer_object", swapped.nearer_K, "")]
