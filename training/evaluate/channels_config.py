"""The settings of the protocol `channels`. Imports no torch: --help is quick."""

from dataclasses import dataclass

from pipeline.core.errors import check
from training.config.settings import check_least


@dataclass(frozen=True, kw_only=True)
class ChannelsConfig:
    """The network with fewer inner channels.

    Attributes:
        budgets: shares of the MACs at the view's size, in (0, 1]; 1 is the network itself.
        images: of --train at most, 2 or more, that rank channels and estimate batch norm again;
            their labels are not used.
        rounds: images that are timed, 2 or more, one at once, the networks in turns.
    """

    budgets: tuple[float, ...] = (1.0, 0.75, 0.5, 0.35)
    images: int = 1000
    rounds: int = 50

    def __post_init__(self) -> None:
        given = self.budgets
        fits = bool(given) and all(0 < one <= 1 for one in given) and len(set(given)) == len(given)
        check(fits, f"channels.budgets {list(given)}: wanted some in (0, 1], each once")
        check_least(self, "channels.", images=2, rounds=2)
