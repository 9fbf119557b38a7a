"""Whether an encoder follows an object or its background: objects on other backgrounds.

After Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition"
(ImageNet-9), arXiv 2006.09994. An image is shown as it is (original), as its object on the
background of another image of its class (same) and of other classes (other), as its object on a
neutral ground (object), and as its background alone (background). Departures: holes are inpainted,
where ImageNet-9 tiles, and the other background is never of the object's own class.

Shapes: M chosen images, K of them with an object that can be cut out, N backgrounds, S side of the
view, D features, B batch.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.evaluate.backgrounds_cut import Cut, binarised, composed, cut, object_share
from training.evaluate.extract import ExtractConfig
from training.evaluate.features import extract_features
from training.evaluate.labelled import LabelledImages
from training.evaluate.look import evenly_chosen
from training.evaluate.subject import Subject

TRUE_MASKS = "external"
"""The saliency source whose maps are masks that somebody made; others are approximate."""


@dataclass(frozen=True, kw_only=True)
class BackgroundsConfig:
    """Objects on other backgrounds.

    Attributes:
        backgrounds: of other classes per object, 1 or more; an object counts as lost when any of
            them changes its class. `other` and the gap take the first.
        min_object: least share of a view that an object covers, in (0, 1).
        max_object: greatest share, in (0, 1): more leaves no background to take away.
        max_images: validation images at most, 2 or more, evenly chosen.
    """

    backgrounds: int = 8
    min_object: float = 0.01
    max_object: float = 0.8
    max_images: int = 5000

    def __post_init__(self) -> None:
        if self.backgrounds < 1 or self.max_images < 2:
            raise InputError("backgrounds.backgrounds must be 1 or more, max_images 2 or more")
        if not 0 < self.min_object < self.max_object < 1:
            raise InputError(
                f"backgrounds.min_object {self.min_object} and max_object {self.max_object}: "
                "wanted 0 < min_object < max_object < 1"
            )


class Swapped(NamedTuple):
    """Features of objects on all their backgrounds."""

    numbers_K: NDArray[np.int64]
    """Of the images with an object that can be cut out, in order."""
    features_XKD: Tensor
    """Of the pictures, float32 on the CPU: original, same, N times other, object, background."""
    nearer_K: NDArray[np.float64]
    """Share of an object's swapped pictures that lie nearer to its picture than to the
    background's, by cosine."""
    left_out: dict[str, int]
    """Images left out, by the reason."""


def is_approximate(images: LabelledImages) -> bool:
    """Whether the maps of a set are not masks: figures of its objects are then approximate."""
    return images.saliency_source != TRUE_MASKS


def check_masks(images: LabelledImages) -> None:
    """Raise InputError for a set without saliency."""
    if images.saliency_source is None:
        raise InputError(
            f"backgrounds needs masks of the objects, and {images.root} has none: make shards of "
            "it with jobs/precompute.py --saliency external --masks FOLDER (another --saliency "
            "gives approximate figures)"
        )


def swap_backgrounds(
    subject: Subject,
    images: LabelledImages,
    config: BackgroundsConfig,
    extract: ExtractConfig,
    *,
    features_VD: Tensor,
    device: torch.device,
    seed: int,
) -> Swapped:
    """Cut, compose and encode; the ranks share the work and return the same.

    Args:
        subject: the encoder.
        images: V labelled images with saliency.
        config: settings.
        extract: how pictures become features.
        features_VD: of the images' test-time views.
        device: that computes.
        seed: of the pairs: with an image's number it decides its backgrounds.

    Raises:
        InputError: no saliency; fewer than two classes have objects that can be cut out.
    """
    check_masks(images)
    numbers_M = evenly_chosen(images.num_images, config.max_images)
    labels_M = images.labels()[numbers_M]
    cut_M, share_M = _cut_all(subject, images, numbers_M, extract)
    kept_K, left_out = _kept(share_M, labels_M, config)
    if len(np.unique(labels_M[kept_K])) < 2 or len(kept_K) < world_size():
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(
            f"backgrounds wants objects of two classes or more in {images.root}: of "
            f"{len(numbers_M)} images {told}"
        )
    cut_K = Cut(*(part[kept_K] for part in cut_M))
    numbers_K = numbers_M[kept_K]
    same_K, other_NK = pairs(numbers_K, labels_M[kept_K], config.backgrounds, seed=seed)
    own_KD = features_VD.cpu()[torch.from_numpy(numbers_K)]
    seen_XKD = _encoded(subject, cut_K, np.stack([same_K, *other_NK], axis=1), extract, device)
    other_NKD = seen_XKD[1:-2]
    nearer_NK = F.cosine_similarity(other_NKD, own_KD, dim=2) > F.cosine_similarity(
        other_NKD, own_KD[torch.from_numpy(other_NK)], dim=2
    )
    return Swapped(
        numbers_K,
        torch.cat([own_KD[None], seen_XKD]),
        nearer_NK.double().mean(dim=0).numpy(),
        left_out,
    )


def judged(predicted_XK: Tensor, labels_K: Tensor) -> dict[str, Tensor]:
    """Predictions by variant, int64 [K] each, from those of all pictures.

    `any of N` is the prediction on the first background that changes the class, and right where
    none does.

    Args:
        predicted_XK: int64, in the order of `Swapped.features_XKD`.
        labels_K: int64.
    """
    others_NK = predicted_XK[2:-2]
    # The first row that is wrong; of an image that has none the first row, which is right.
    lost_1K = (others_NK != labels_K).long().argmax(dim=0, keepdim=True)
    return {
        "original": predicted_XK[0],
        "same": predicted_XK[1],
        "other": others_NK[0],
        f"any of {len(others_NK)}": others_NK.gather(0, lost_1K)[0],
        "object": predicted_XK[-2],
        "background": predicted_XK[-1],
    }


def pairs(
    numbers_K: NDArray[np.int64], labels_K: NDArray[np.int64], num_others: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the backgrounds of each image: a pure function of the seed and the image.

    Args:
        numbers_K: of the images.
        labels_K: of two classes or more, of each two images or more.
        num_others: backgrounds of other classes, each another image; fewer where there are fewer.
        seed: of the draws.

    Returns:
        Rows, int64: [K] of another image of the class, [N, K] of images of other classes.
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


def _cut_all(
    subject: Subject, images: LabelledImages, numbers_M: NDArray[np.int64], extract: ExtractConfig
) -> tuple[Cut, NDArray[np.float64]]:
    """The parts of all images and the objects' shares, on every rank."""
    wanted = subject.info.preprocessing

    def load(number: int) -> tuple[Cut, float]:
        image, levels_PP = images.image(number), images.saliency(number)
        if is_approximate(images):
            levels_PP = binarised(levels_PP)
        parts = cut(image, levels_PP, resize=wanted.resize, size=wanted.view_size)
        return parts, object_share(levels_PP, image.shape[0], image.shape[1])

    mine = np.array_split(numbers_M, world_size())[rank()].tolist()
    with ThreadPoolExecutor(extract.num_threads) as pool:
        loaded = list(track(pool.map(load, mine), "objects cut out", len(mine), "images"))
    parts = [np.stack(part) for part in zip(*(parts for parts, _ in loaded), strict=True)]
    shares = np.array([share for _, share in loaded])
    *gathered, share_M = (
        gather_rows_of_any_number(torch.from_numpy(part)).numpy() for part in (*parts, shares)
    )
    return Cut(*gathered), share_M


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


def _encoded(
    subject: Subject,
    parts: Cut,
    backgrounds_KX: NDArray[np.int64],
    extract: ExtractConfig,
    device: torch.device,
) -> Tensor:
    """Features of an object on X backgrounds, on a neutral ground, and of its background alone.

    Returns:
        float32 [X + 2, K, D] on the CPU, on every rank.
    """
    ground = np.rint(255 * np.array(subject.info.preprocessing.mean)).astype(np.uint8)

    def pictures(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        views, mattes = parts.view_SS3[rows][:, None], parts.matte_SS[rows][:, None]
        made = np.concatenate(
            [
                composed(views, mattes, parts.background_SS3[backgrounds_KX[rows]]),
                composed(views, mattes, np.broadcast_to(ground, views.shape)),
                parts.background_SS3[rows][:, None],
            ],
            axis=1,
        )
        flat = torch.from_numpy(made.reshape(-1, *made.shape[2:])).permute(0, 3, 1, 2)
        return flat, torch.zeros(len(flat), dtype=torch.int64)

    mine = np.array_split(np.arange(len(backgrounds_KX)), world_size())[rank()]
    each = backgrounds_KX.shape[1] + 2
    batches = np.array_split(mine, -(-len(mine) * each // extract.batch_size))
    features, _ = extract_features(
        subject.network,
        map(pictures, track(batches, "backgrounds", len(mine), "images", size=len)),
        device=device,
        prepare=subject.prepare,
        autocast_dtype=extract.autocast_dtype,
    )
    return gather_rows_of_any_number(features.reshape(len(mine), each, -1)).transpose(0, 1)
