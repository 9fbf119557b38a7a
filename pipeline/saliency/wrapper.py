"""What sources have in common that work on another source's maps."""

import dataclasses
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pipeline.saliency.interface import SaliencySource


@dataclass(frozen=True, kw_only=True)
class Wrapper(SaliencySource):
    """Another source, the base, whose maps are worked on.

    `OPTION=true` among the base's options switches a wrapper on, `OPTION_FIELD` sets its fields.
    """

    option: ClassVar[str]
    base: SaliencySource

    @property
    def wants_gpu(self) -> bool:  # type: ignore[override]
        """As the base."""
        return self.base.wants_gpu

    @property
    def batch_images(self) -> int:  # type: ignore[override]
        """As the base."""
        return self.base.batch_images

    def pinned(self) -> Self:
        """With the base pinned."""
        return replace(self, base=self.base.pinned())

    def parameters(self) -> dict[str, object]:
        """The base's parameters, and the wrapper's own under its option."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del own["base"]
        return {**self.base.parameters(), self.option: own}
