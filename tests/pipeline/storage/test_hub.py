"""hf:// by fakes of the library's own interface: no hub is reached in any test."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.storage.hub import HubStore
from pipeline.storage.storage import open_store, open_uri
from pipeline.storage.store import StoreError
from tests.picture_folders import contents, write_pictures


class LocalHub(DirFileSystem):  # type: ignore[misc]
    """A folder in the place of the hub; it gives digests as the hub does."""

    root: Path
    cachable = False

    def __init__(self) -> None:
        super().__init__(str(self.root), fsspec.filesystem("file"))

    def info(self, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        about = dict(super().info(path, **options))
        return about | {"blob_id": f"{about['mtime']}"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a data set on a hub that is a folder."""
    monkeypatch.setattr(LocalHub, "root", tmp_path / "hub", raising=False)
    monkeypatch.setattr("huggingface_hub.HfFileSystem", LocalHub)
    folder = tmp_path / "hub" / "datasets" / "owner" / "name"
    folder.mkdir(parents=True)
    return folder


def test_a_fake_of_the_hub_is_read_as_a_store(hub: Path) -> None:
    (hub / "a").mkdir()
    (hub / "a" / "ü 1.bin").write_bytes(b"0123456789")
    store = open_store("hf://datasets/owner/name")
    assert [file[:2] for file in store.files()] == [("a/ü 1.bin", 10)]
    assert [file[:2] for file in open_store(f"{store.url}/a").files()] == [("ü 1.bin", 10)]
    assert list(store.files("nowhere")) == []
    assert (store.size("a/ü 1.bin"), store.size("nope"), store.size("a")) == (10, None, None)
    assert (store.read("a/ü 1.bin"), store.read("a/ü 1.bin", 8, 9)) == (b"0123456789", b"89")
    with store.open("a/ü 1.bin") as file:
        file.seek(4)
        assert file.read(2) == b"45"
    with pytest.raises(FileNotFoundError):
        store.read("nope")
    with pytest.raises(StoreError, match="hf:// can only be read"):
        store.write("x", b"")
    with pytest.raises(StoreError, match="hf:// can only be read"):
        store.remove("a/ü 1.bin")
    at = open_uri(store, "hf://datasets/owner/name@v1/a/ü 1.bin")
    assert at == (HubStore("datasets/owner/name@v1"), "a/ü 1.bin")


def test_a_fake_of_the_hub_is_precomputed_from(hub: Path, tmp_path: Path) -> None:
    """A folder of images, and tables: the shards of the same files on the disk."""
    write_pictures(hub / "images", 4)
    rows = [{"bytes": path.read_bytes(), "path": None} for path in sorted(hub.rglob("*.*"))]
    (hub / "data").mkdir()
    pq.write_table(pa.table({"image": rows[:2]}), hub / "data" / "train-0.parquet")
    pq.write_table(pa.table({"image": rows[2:]}), hub / "data" / "train-1.parquet")
    for place in ("images", "data/*.parquet", "data/train-{0..1}.parquet"):
        found: list[dict[str, str]] = []
        for data in (f"hf://datasets/owner/name/{place}", hub / place):
            out = tmp_path / f"out-{len(found)}-{place.replace('/', '-')}"
            run_precompute(PrecomputeConfig(data=data, out=out, saliency="centre"))
            found.append(contents(out))
        assert found[0] == found[1]
    with pytest.raises(
        InputError, match=r"hf://.*/out/plan.* cannot be written: hf:// can only be"
    ):
        run_precompute(PrecomputeConfig(data=hub / "images", out="hf://datasets/owner/name/out"))


def refusal(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    """What the library raises for an answer of the hub."""
    answer = httpx2.Response(status, request=httpx2.Request("GET", "http://h"))
    return kind("Not so\nfor url", response=answer)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("no route"), r"^hf://datasets/a/b/x cannot be read: no route \(tried"),
        (httpx2.ReadTimeout("too slow"), r"x cannot be read: too slow \(tried again for 0 s\)$"),
        (refusal(503), r"x cannot be read: Not so \(tried again for 0 s\)$"),
        (refusal(403), r"x cannot be read: Not so \(if it is private or gated: set HF_TOKEN"),
        (refusal(400), r"x cannot be read: Not so$"),
        (ValueError("no such thing"), r"x cannot be read: no such thing$"),
    ],
)
def test_errors_of_the_hub_are_one_line(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Mock(cat_file=Mock(side_effect=error))
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: hub)
    with pytest.raises((StoreError, StoreUnavailable), match=words) as raised:
        HubStore("datasets/a/b", retry_seconds=0).read("x")
    assert "\n" not in str(raised.value)


def test_a_repository_that_is_not_there_is_no_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, whose request is answered in its place."""
    no = Mock(side_effect=refusal(401, RepositoryNotFoundError))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", no)
    store = HubStore("datasets/nobody/nothing", retry_seconds=0)
    for ask in (lambda: list(store.files()), lambda: store.size("x"), lambda: store.read("x")):
        with pytest.raises(StoreError, match=r"\(repository not found\).*HF_TOKEN"):
            ask()


def test_addresses_and_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("hf://datasets/name", "hf://models/a/b", "hf://datasets/a//b", "hf://"):
        with pytest.raises(InputError, match="hf:// names no data set of the hub: write hf://data"):
            open_store(url)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"install the extra hf: pip install 'salmask\[hf\]'"):
        list(open_store("hf://datasets/a/b").files())
