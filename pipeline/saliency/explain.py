"""`explain`: what a network marks that was trained against a frozen backbone (jobs/explain.py).

After Stalder et al., "What You See is What You Classify", NeurIPS 2022 (arXiv 2205.11266), with
prototypes of the backbone's own features in place of labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import check
from pipeline.saliency.interface import Image, Map, SaliencySource, flat_map, is_flat, resize

if TYPE_CHECKING:
    from pipeline.saliency.explain_network import Explainer


@dataclass(frozen=True, kw_only=True)
class Explain(SaliencySource):
    """The mask, 56 x 56, that an explainer makes of the image, squeezed to a square.

    Attributes:
        weights: folder that jobs/explain.py has written.
        weights_digest: sha256 that its weights must have; set by `pinned`.
    """

    wants_gpu = True
    batch_images = 32  # go through the network together

    weights: str = ""
    weights_digest: str = ""

    def __post_init__(self) -> None:
        check(
            self.weights != "", "saliency explain wants explain:weights=FOLDER of jobs/explain.py"
        )

    def pinned(self) -> "Explain":
        """The source with the digest of its weights and an absolute path."""
        folder = str(Path(self.weights).expanduser().resolve())
        return replace(self, weights=folder, weights_digest=self._explainer().weights_digest)

    def parameters(self) -> dict[str, object]:
        """The name of the folder and the digest of the weights."""
        digest = self._explainer().weights_digest
        return {"weights": Path(self.weights).name, "weights_digest": digest}

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; InputError for weights that are absent, damaged or have changed."""
        from pipeline.saliency.explain_network import INPUT_SIDE

        maps = [flat_map() for _ in images]
        wanted = [number for number, image in enumerate(images) if not is_flat(image)]
        for first in range(0, len(wanted), self.batch_images):
            part = wanted[first : first + self.batch_images]
            batch = np.stack([resize(images[number], (INPUT_SIDE,) * 2) for number in part])
            for number, saliency in zip(part, self._explainer().maps(batch), strict=True):
                maps[number] = saliency
        return maps

    def _explainer(self) -> "Explainer":
        # Imported here, so that the other sources' processes do without torch.
        from pipeline.saliency.explain_network import explainer_of

        return explainer_of(self.weights, self.weights_digest)
