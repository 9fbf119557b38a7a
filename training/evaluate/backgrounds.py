"""Whether an encoder follows an object or its background: objects on other backgrounds.

After Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition"
(ImageNet-9), arXiv 2006.09994. An image is shown as it is (original), as its object on the
background of another image of its class (same) and of other classes (other), as its object on a
neutral ground (object), and as its background alone (background). Departures: holes are inpainted,
where ImageNet-9 tiles, and the other background is never of the object's own class.

Shapes: M chosen images, K of them with an object that can be cut out, N backgrounds of other
classes, X pictures of an image (original, same, N times other, object, background), D features.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import check
from pipeline.core.progress import say, track
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.evaluate.backgrounds_cut import Cut, composed, cut_all
from training.evaluate.case import Case
from training.evaluate.config import BackgroundsConfig
from training.evaluate.frozen import knn_predict, linear_probe
from training.evaluate.intervals import mean_interval
from training.evaluate.labelled import LabelledImages, evenly_chosen
from training.evaluate.results import Result

TRUE_MASKS = "external"
"""The saliency source whose maps are masks that somebody made; others are approximate."""


def check_masks(images: LabelledImages) -> None:
    """Raise InputError for a set without saliency."""
    check(
        images.saliency_source is not None,
        f"backgrounds needs masks of the objects, and {images.root} has none: make shards of it "
        "with jobs/precompute.py --saliency external --masks FOLDER (another --saliency gives "
        "approximate figures)",
    )


def backgrounds(case: Case) -> list[Result]:
    """The protocol `backgrounds`, by kNN and by the fast probe, fitted on training images.

    The ranks share the work. The seed with an image's number decides its backgrounds.

    Raises:
        InputError: no saliency; fewer than two classes have objects that can be cut out.
    """
    images, config, seed = case.val, case.config.backgrounds, case.config.seed
    check_masks(images)
    approximate = images.saliency_source != TRUE_MASKS
    numbers_M = evenly_chosen(images.num_images, config.max_images)
    labels_M = images.labels()[numbers_M]
    cut_M, share_M = cut_all(case.encoder, images, numbers_M, otsu=approximate)
    kept_K, left_out = _kept(share_M, labels_M, config)
    told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    check(
        len(np.unique(labels_M[kept_K])) >= 2 and len(kept_K) >= world_size(),
        f"backgrounds wants objects of two classes or more in {images.root}: of {len(numbers_M)} "
        f"images {told}",
    )
    if rank() == 0:
        say(f"backgrounds: {len(kept_K)} images; {told}")
    numbers_K = numbers_M[kept_K]
    same_K, other_NK = pairs(numbers_K, labels_M[kept_K], config.backgrounds, seed=seed)
    original_KD = case.features_val[0].cpu()[torch.from_numpy(numbers_K)]
    cut_K = Cut(*(part[kept_K] for part in cut_M))
    made_XKD = _features(case, cut_K, np.stack([same_K, *other_NK], axis=1))
    settings = asdict(config) | {"approximate": approximate, "left_out": left_out}
    results = _classified(case, torch.cat([original_KD[None], made_XKD]), numbers_K, settings)
    to_object_NK, to_background_NK = (
        F.cosine_similarity(made_XKD[1:-2], other, dim=2)
        for other in (original_KD, original_KD[torch.from_numpy(other_NK)])
    )
    nearer_K = (to_object_NK > to_background_NK).double().mean(dim=0)
    return [*results, _mean(case, "nearer_object", nearer_K, "", settings)]


def _classified(
    case: Case, features_XKD: Tensor, numbers_K: NDArray[np.int64], settings: dict[str, Any]
) -> list[Result]:
    """Accuracies by classifier and kind of picture, and the gap of each classifier."""
    k, temperature, num_classes = case.config.k, case.config.temperature, case.num_classes
    features = features_XKD.flatten(0, 1).to(case.encoder.device)
    labels_K = torch.from_numpy(case.val.labels()[numbers_K])
    given = (*case.features_train, features)
    by_knn = knn_predict(*given, num_classes=num_classes, k=k, temperature=temperature)
    labels = labels_K.repeat(len(features_XKD))
    by_probe = linear_probe(*given, labels, num_classes=num_classes, seed=case.config.seed)
    results = []
    for classifier, predicted, more in (
        ("", by_knn, {"k": k, "temperature": temperature}),
        ("linear", by_probe.predicted_V, {"strength": by_probe.strength}),
    ):
        found = judged(predicted.cpu().reshape(-1, len(numbers_K)), labels_K)
        about = settings | more
        for kind, predicted_K in found.items():
            variant = _variant(settings, kind, classifier)
            results.append(
                case.accuracy(
                    "backgrounds", predicted_K, numbers=numbers_K, variant=variant, settings=about
                )
            )
        same_K, other_K = ((found[kind] == labels_K).double() for kind in ("same", "other"))
        results.append(_mean(case, "background_gap", same_K - other_K, classifier, about))
    return results


def _mean(
    case: Case, name: str, values_K: Tensor, classifier: str, settings: dict[str, Any]
) -> Result:
    percent_K = 100 * values_K.numpy()
    return case.result(
        "backgrounds",
        name,
        float(percent_K.mean()),
        interval=mean_interval(percent_K, seed=case.config.seed),
        variant=_variant(settings, classifier),
        num_val=len(percent_K),
        settings=settings,
    )


def _variant(settings: dict[str, Any], *words: str) -> str:
    return " ".join(filter(None, (*words, "approximate" if settings["approximate"] else "")))


def judged(predicted_XK: Tensor, labels_K: Tensor) -> dict[str, Tensor]:
    """Predictions by kind of picture, int64 [K] each.

    `all of N` is the prediction on the first background that changes the class, and right where
    none does: the rule of ImageNet-9's challenge.
    """
    original_K, same_K, *others, object_K, background_K = predicted_XK
    others_NK = torch.stack(others)
    # The first row that is wrong; of an image that has none the first row, which is right.
    lost_1K = (others_NK != labels_K).long().argmax(dim=0, keepdim=True)
    return {
        "original": original_K,
        "same": same_K,
        "other": others_NK[0],
        f"all of {len(others)}": others_NK.gather(0, lost_1K)[0],
        "object": object_K,
        "background": background_K,
    }


def pairs(
    numbers_K: NDArray[np.int64], labels_K: NDArray[np.int64], num_others: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the backgrounds of each image: a pure function of the seed and the image's number.

    Returns:
        Rows, int64: [K] of another image of the class, [N, K] of different images of other classes;
        N is `num_others`, or fewer where there are fewer.
    """
    of_class = {label: np.flatnonzero(labels_K == label) for label in np.unique(labels_K)}
    not_of_class = {label: np.flatnonzero(labels_K != label) for label in of_class}
    num_others = min(num_others, *(len(rows) for rows in not_of_class.values()))
    same, others = [], []
    for row, (number, label) in enumerate(zip(numbers_K.tolist(), labels_K.tolist(), strict=True)):
        generator = np.random.default_rng([seed, number])
        mates = of_class[label][of_class[label] != row]
        same.append(mates[generator.integers(len(mates))])
        strangers = not_of_class[label]
        others.append(strangers[generator.choice(len(strangers), num_others, replace=False)])
    return np.array(same), np.stack(others, axis=1)


def _kept(
    share_M: NDArray[np.float64], labels_M: NDArray[np.int64], config: BackgroundsConfig
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of the images that take part, and how many others there are by reason."""
    small_M, large_M = share_M < config.min_object, share_M > config.max_object
    there_M = ~(small_M | large_M)
    alone_M = there_M & (np.bincount(labels_M[there_M], minlength=labels_M.max() + 1) < 2)[labels_M]
    return np.flatnonzero(there_M & ~alone_M), {
        "have no object": int(small_M.sum()),
        "are filled by their object": int(large_M.sum()),
        "are the only ones left of their class": int(alone_M.sum()),
    }


def _features(case: Case, parts_K: Cut, backgrounds_KX: NDArray[np.int64]) -> Tensor:
    """Features of objects on backgrounds, on a neutral ground, and of the backgrounds alone.

    Returns:
        float32 [X + 2, K, D] on the CPU, on every rank.
    """
    ground = np.rint(255 * np.array(case.encoder.info.preprocessing.mean)).astype(np.uint8)

    def pictures(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        views, mattes = parts_K.view_SS3[rows][:, None], parts_K.matte_SS[rows][:, None]
        on_others = composed(views, mattes, parts_K.background_SS3[backgrounds_KX[rows]])
        on_ground = composed(views, mattes, np.broadcast_to(ground, views.shape))
        alone = parts_K.background_SS3[rows][:, None]
        made = np.concatenate([on_others, on_ground, alone], axis=1)
        flat = torch.from_numpy(made.reshape(-1, *made.shape[2:])).permute(0, 3, 1, 2)
        return flat, torch.zeros(len(flat), dtype=torch.int64)

    mine = np.array_split(np.arange(len(backgrounds_KX)), world_size())[rank()]
    each = backgrounds_KX.shape[1] + 2
    batches = np.array_split(mine, -(-len(mine) * each // case.encoder.batch_size))
    shown = track(batches, "backgrounds", len(mine), "images", size=len)
    features, _ = case.encoder.extract(map(pictures, shown))
    return gather_rows_of_any_number(features.reshape(len(mine), each, -1)).transpose(0, 1)
