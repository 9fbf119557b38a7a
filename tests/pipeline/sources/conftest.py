"""Pictures that lists and tables name."""

from pathlib import Path

import pytest


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("lists/near.jpg", "lists/sub/ü 1.jpg", "pictures/far.jpg", "masks/near.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path
