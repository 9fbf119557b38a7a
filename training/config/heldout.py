"""The held-out contrastive loss during pretraining: the settings."""

from dataclasses import dataclass

from pipeline.core.errors import InputError
from pipeline.storage.storage import Location


@dataclass(frozen=True, kw_only=True)
class HeldoutConfig:
    """The contrastive loss on images that are not trained on, measured with the kNN check.

    Its negatives are a frozen bank: the same views of the same images in every run and at every
    time, embedded by the network as it stands, so that figures of several runs can be compared.

    Attributes:
        shards: other images than the pretraining's, labelled or not; None: it is not measured.
        bank_size: images of the bank, 1 or more; at most half of the shards' images.
        temperature: of the loss, above 0, whatever that of the training is.
    """

    shards: Location | None = None
    bank_size: int = 1024
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.bank_size < 1 or self.temperature <= 0:
            raise InputError(
                f"heldout.bank_size {self.bank_size} must be 1 or more, heldout.temperature "
                f"{self.temperature} above 0"
            )
