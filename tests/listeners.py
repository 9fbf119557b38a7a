"""Who hears what work tells, in tests; and a clock that stands still."""

from pipeline.core.progress import Standing


class Kept:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.standings: list[Standing] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, standing: Standing) -> None:
        self.standings.append(standing)


class Clock:
    """Shows the time that it is set to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
