"""Settings of MoCo v2."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.errors import InputError
from training.methods.settings import HardNegativeConfig


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(HardNegativeConfig):
    """The method's settings; the defaults are the paper's.

    Attributes:
        queue_size: K, keys in the queue, 1 or more: a multiple of --batch-size.
        key_momentum: share of the key encoder kept at a step, in [0, 1).
        key_momentum_end: the same at the end, in [0, 1], reached along half a cosine; none: it
            stays.
    """

    name: ClassVar[str] = "moco_v2"

    queue_size: int = 65536
    key_momentum: float = 0.999
    key_momentum_end: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(0 <= self.key_momentum < 1, "key_momentum", "must be in [0, 1)")
        end = self.key_momentum_end
        self.check(end is None or 0 <= end <= 1, "key_momentum_end", "must be in [0, 1]")
        self.check(self.queue_size >= 1, "queue_size", "must be 1 or more")

    def check_batch(self, batch_size: int, num_ranks: int) -> None:
        """Raises ``InputError`` unless the global batch fits queue, ranks and groups."""
        size = self.queue_size
        if size < batch_size or size % batch_size:
            raise InputError(
                f"method.queue_size {size} is not a multiple of the global batch {batch_size}: "
                f"try {max(1, size // batch_size) * batch_size}"
            )
        super().check_batch(batch_size, num_ranks)
        if num_ranks == 1 and self.batch_norm_group in (None, batch_size):
            raise InputError(
                f"method.batch_norm_group {self.batch_norm_group} leaves one group for the whole "
                f"batch of {batch_size}: query and key would share their batch statistics, by "
                f"which keys can be told; try {max(2, batch_size // 2)}"
            )
