"""Whole numbers that add up over a run's steps and ranks, through restarts too."""

from training.core.distributed import sum_over_ranks

_WORD = 1 << 64


class Tally:
    """Totals of named numbers, modulo 2^64.

    Each rank adds what it saw; what was added since the last look is summed over the ranks only
    when somebody looks, which all ranks do together.

    Args:
        names: of the numbers, which all begin at 0.
    """

    def __init__(self, *names: str) -> None:
        self._totals = dict.fromkeys(names, 0)
        self._new = dict.fromkeys(names, 0)

    def add(self, **numbers: int) -> None:
        """Adds what this rank saw."""
        for name, number in numbers.items():
            self._new[name] = (self._new[name] + number) % _WORD

    def totals(self) -> dict[str, int]:
        """The sums over all steps and ranks; called by every rank."""
        sums = sum_over_ranks(list(self._new.values()))
        for name, number in zip(self._new, sums, strict=True):
            self._totals[name] = (self._totals[name] + number) % _WORD
            self._new[name] = 0
        return dict(self._totals)

    def state_dict(self) -> dict[str, int]:
        """The totals as of the last look, for a checkpoint."""
        return dict(self._totals)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a checkpoint's totals."""
        self._totals = {name: int(state[name]) for name in self._totals}
