"""The seconds that the demo has taken, kept over interruptions."""

import json
import time
from pathlib import Path

import psutil


class Clock:
    """Seconds since this process began, and those of earlier runs, which the file keeps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._earlier = float(json.loads(path.read_text())) if path.exists() else 0.0
        self._began = psutil.Process().create_time()
        self.seconds = self._earlier

    def stop(self) -> None:
        """Read the clock and keep its seconds."""
        self.seconds = self._earlier + time.time() - self._began
        self._path.write_text(json.dumps(self.seconds))
