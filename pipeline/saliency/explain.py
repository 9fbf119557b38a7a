"""`explain`: what a network marks that was trained against a frozen backbone (jobs/explain.py).

After Stalder et al., "What You See is What You Classify", NeurIPS 2022 (arXiv 2205.11266), with
prototypes of the backbone's own features in place of labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.core.errors import check
from pipeline.saliency.interface import Image, Map, SaliencySource, flat_map, is_flat, resize


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
        return replace(self, weights=folder, weights_digest=self._digest())

    def parameters(self) -> dict[str, object]:
        """The name of the folder and the digest of the weights."""
        return {"weights": Path(self.weights).name, "weights_digest": self._digest()}

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; InputError for weights that are absent, damaged or have changed."""
        # Imported here, so that the other sources' processes do without torch.
        from pipeline.saliency.explain_network import INPUT_SIDE, load_explainer, masks_of

        maps = [flat_map() for _ in images]
        wanted = [number for number, image in enumerate(images) if not is_flat(image)]
        for first in range(0, len(wanted), self.batch_images):
            part = wanted[first : first + self.batch_images]
            batch = np.stack([resize(images[number], (INPUT_SIDE,) * 2) for number in part])
            network, _ = load_explainer(self.weights, self.weights_digest)
            for number, saliency in zip(part, masks_of(network, batch), strict=True):
                maps[number] = saliency
        return maps

    def _digest(self) -> str:
        from pipeline.saliency.explain_network import load_explainer

        return load_explainer(self.weights, self.weights_digest)[1]
