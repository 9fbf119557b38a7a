"""The seconds that the demo has taken, kept over interruptions."""

import json
import time
from pathlib import Path

import psutil


class Clock:
    """Seconds since this process began, and those of earlier runs, which the file keeps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._earlier = _kept(path)
        self._began = psutil.Process().create_time()
        self.seconds = self._earlier

    def stop(self) -> None:
        """Read the clock and keep its seconds."""
        self.seconds = self._earlier + time.time() - self._began
        whole = self._path.with_suffix(".tmp")
        whole.write_text(json.dumps(self.seconds))
        whole.replace(self._path)


def _kept(path: Path) -> float:
    """The seconds in a file; 0 where there is none, or something else in it."""
    try:
        return float(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return 0.0
