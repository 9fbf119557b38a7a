"""A file at its final name is whole."""

from pathlib import Path

import pytest

from pipeline.storage.atomic import atomic_file, temporaries, write_atomically


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.bin"
    with atomic_file(path) as file:
        file.write(b"abc")
        assert not path.exists()
        assert len(temporaries(path.parent)) == 1
    assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomically(path, b"old")

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
