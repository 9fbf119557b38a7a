"""What is fuzzed: a valid folder of each kind, the file of it that is damaged, and its readers.

`read_damaged` runs in a child process (`test_fuzz`), which may die.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.backbone.folder import load_backbone, write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.backbone.weights import find_weights, read_state_dict
from pipeline.core.architectures import plain_network
from pipeline.core.errors import ImageError, JobError
from pipeline.images.preprocessing import Preprocessing
from pipeline.precompute.verify import verify_shard
from pipeline.shardset.manifest import (
    check_shards,
    load_dataset_info,
    read_manifest,
    read_record,
    read_rejected,
)
from pipeline.shardset.reader import ShardSetReader
from pipeline.sources.pictures import open_pictures
from pipeline.storage.storage import open_store
from tests.fuzz.mutations import (
    Mutation,
    mutate_bytes,
    mutate_json,
    mutate_tar,
    mutate_zip,
    tar_of,
)
from tests.runs import NETWORK, NUM_FEATURES, small_run
from tests.shard_sets import write_shard_set
from training.config.file import check_run_folder, read_config_file, runs_on, write_config
from training.encoders.encoder import build_backbone, projection_head
from training.encoders.export import load_encoder, load_head
from training.engine.start import first_state
from training.report.state import read_run

CPU_SECONDS, WALL_SECONDS = 5.0, 120.0
"""For one input; the kernel ends the process that takes longer."""
MEMORY = 3 << 30
"""Bytes that an input may take beside what the process has."""
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen")
CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
OTHERS = ("pickle.find_class", "socket.connect", "os.truncate", "os.utime", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Kind(NamedTuple):
    """Makes a folder; the files of it that are damaged, and how; reads it, part after part."""

    make: Callable[[Path], None]
    files: Sequence[tuple[str, Mutation]]
    parts: Callable[[Path], Sequence[Callable[[], object]]]
    after: Callable[[Path], None] = lambda folder: None  # makes the rest fit the damage
    reads_anywhere: bool = False  # a list may name any file


def _png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _make_set(folder: Path) -> None:
    write_shard_set(folder, num_images=6, shard_images=3)


def _set_parts(folder: Path) -> Sequence[Callable[[], object]]:
    info = load_dataset_info(folder)
    reader = ShardSetReader(folder, info)
    each = [lambda number=number: reader.read_pixels(number) for number in range(6)]
    names = [shard.name for shard in info.shards][:4]
    tables = [
        lambda read=read, name=name: read(folder, name)
        for read in (read_record, read_manifest, read_rejected)
        for name in names
    ]
    store = open_store(folder)
    whole = [lambda shard=shard: verify_shard(store, shard, info) for shard in info.shards[:4]]
    checks = [lambda: check_shards(folder, info), reader.labels, lambda: reader.read_map(0)]
    return [*each, *tables, *whole, *checks, lambda: open_pictures(folder).names]


def _make_tar(folder: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(3):
        about = json.dumps({"label": number}).encode()
        members |= {f"d/{number}.png": _png(number), f"d/{number}.cls": b"%d" % number}
        members |= {f"d/{number}.json": about, f"d/{number}.mask.png": _png(9)}
    (folder / "x.tar").write_bytes(tar_of(members))


def _make_lists(folder: Path) -> None:
    names = [f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(_png(number))
    rows = [f'{name},"a, {number}"\n' for number, name in enumerate(names)]
    (folder / "x.csv").write_text("path,label\n" + "".join(rows))
    (folder / "x.txt").write_text("\n".join(names))
    columns = {"path": names, "label": ["b", "a", "b", "a"]}
    pq.write_table(pa.table(columns), folder / "named.parquet")
    cells = [{"bytes": _png(number), "path": None} for number in range(4)]
    cells[2] = {"bytes": None, "path": "2.png"}
    held = pa.table({"image": cells, "label": [0, 1, 0, 1]})
    pq.write_table(held, folder / "held.parquet", row_group_size=2, compression="zstd")


def _picture_parts(*names: str) -> Callable[[Path], Sequence[Callable[[], object]]]:
    def of_all(path: Path) -> None:
        found = open_pictures(path)
        for item in found.items:
            with suppress(ImageError):
                found.pixels(item)

    return lambda folder: [lambda name=name: of_all(folder / name) for name in names]


def _make_run(folder: Path) -> None:
    """A run's folder as a killed run leaves it, of a small network and a momentum encoder."""
    write_shard_set(folder / "shards", num_images=8)
    config = small_run(folder / "shards", folder / "run")
    write_config(config.out, config, load_dataset_info(folder / "shards").plan_digest)
    (folder / "run" / "metrics.jsonl").write_text('{"kind": "train", "step": 2, "loss": 1.5}\n')
    checkpoint = folder / "run" / "checkpoints" / "step-00000002"
    _make_backbone(checkpoint)
    shutil.copy(folder / "run" / "config.json", checkpoint)
    network = build_backbone(config.encoder)
    method = {f"key_encoder.backbone.{n}": v for n, v in network.state_dict().items()}
    head = projection_head(NUM_FEATURES, 16, 8, num_layers=2, batch_norm=True).state_dict()
    method |= {f"key_encoder.head.{n}": v for n, v in head.items()} | {"queue": torch.rand(4, 8)}
    torch.save({"method": method, "step": 2, "seen": [1, 2]}, checkpoint / "state.pt")


def _run_parts(folder: Path) -> Sequence[Callable[[], object]]:
    run, shards = folder / "run", folder / "shards"
    config = small_run(shards, run)
    return [
        lambda: read_config_file(run / "config.json", shards=shards, out=run),
        lambda: check_run_folder(run, config, "digest"),
        lambda: runs_on(folder, ["digest"]),
        lambda: read_run(run),
    ]


def _checkpoint_parts(folder: Path) -> Sequence[Callable[[], object]]:
    run = folder / "run"
    return [
        lambda: first_state(run, torch.device("cpu")),
        lambda: load_encoder(run, "momentum"),
        lambda: load_head(run, "momentum"),
    ]


def _make_backbone(folder: Path) -> None:
    network, features = plain_network(NETWORK)
    seen = Preprocessing(view_size=32, resize=36)
    info = BackboneInfo(architecture=NETWORK, feature_dim=features, preprocessing=seen)
    write_backbone(folder / "backbone", network.state_dict(), info)


def _backbone_parts(folder: Path) -> Sequence[Callable[[], object]]:
    weights = folder / "backbone" / "backbone.pth"
    return [
        lambda: load_backbone(folder),
        lambda: find_weights(str(folder / "backbone"), NETWORK),
        lambda: read_state_dict(weights),
    ]


def _give_digest(folder: Path) -> None:
    """Writes the digest of damaged weights into the JSON: whoever makes a file can do that, too."""
    export = folder / "backbone"
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        about = json.loads((export / "backbone.json").read_text())
        digest = hashlib.sha256((export / "backbone.pth").read_bytes()).hexdigest()
        if about.get("weights_sha256"):
            (export / "backbone.json").write_text(json.dumps(about | {"weights_sha256": digest}))


SET_FILES = ("manifest/shard-000000.parquet", "rejected/shard-000001.parquet")
CHECKPOINT = "run/checkpoints/step-00000002"
KINDS: dict[str, Kind] = {
    "shards": Kind(_make_set, [("shards/shard-000001.tar", mutate_tar)], _set_parts),
    "manifest": Kind(_make_set, [(name, mutate_bytes) for name in SET_FILES], _set_parts),
    "dataset.json": Kind(_make_set, [("dataset.json", mutate_json)], _set_parts),
    "foreign tar": Kind(_make_tar, [("x.tar", mutate_tar)], _picture_parts("x.tar")),
    "text lists": Kind(
        _make_lists,
        [("x.csv", mutate_bytes), ("x.txt", mutate_bytes)],
        _picture_parts("x.csv", "x.txt"),
        reads_anywhere=True,
    ),
    "parquet lists": Kind(
        _make_lists,
        [("named.parquet", mutate_bytes), ("held.parquet", mutate_bytes)],
        _picture_parts("named.parquet", "held.parquet"),
        reads_anywhere=True,
    ),
    "config.json": Kind(_make_run, [("run/config.json", mutate_json)], _run_parts),
    "checkpoint": Kind(
        _make_run,
        [(f"{CHECKPOINT}/state.pt", mutate_zip), (f"{CHECKPOINT}/config.json", mutate_json)],
        _checkpoint_parts,
    ),
    "backbone": Kind(
        _make_backbone,
        [("backbone/backbone.pth", mutate_zip), ("backbone/backbone.json", mutate_json)],
        _backbone_parts,
        _give_digest,
    ),
}


class _Watch:
    """Notes what the process does while it is on, but for reading of files that it may read."""

    def __init__(self, folder: Path, anywhere: bool) -> None:
        libraries = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "/proc", "/sys"}
        self._folder, self._readable = f"{folder}{os.sep}", tuple(libraries) if not anywhere else ()
        self._anywhere, self.on, self.seen = anywhere, False, list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in (*FORBIDDEN, *CHANGING, *OTHERS):
            self.seen.append(f"{event} {arguments[:2]}")
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, writes = os.path.abspath(os.fsdecode(arguments[0])), arguments[2] & WRITING
            may_read = self._anywhere or path.startswith((self._folder, *self._readable))
            if writes or not may_read:
                self.seen.append(f"{'writes' if writes else 'reads'} {path}")


def read_damaged(
    name: str, folder: Path, first: int, count: int
) -> tuple[dict[str, int], list[str]]:
    """Reads damaged inputs by number; returns how many were refused and taken, and what is wrong.

    The number of the input that is read is in the file `current` beside the folder.
    """
    kind = KINDS[name]
    whole = folder.with_name("whole")
    folder.mkdir(parents=True)
    kind.make(folder)
    shutil.copytree(folder, whole)
    watch, counts, wrong = _Watch(folder, kind.reads_anywhere), Counter[str](), list[str]()
    _read(kind, folder, counts, wrong, watch)  # it imports, and the whole input is taken
    if wrong or counts.pop("taken", 0) != 1:
        return {}, [f"the whole input: {what}" for what in (*wrong, counts)]
    watch.seen.clear()
    limit = psutil.Process().memory_info().data + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    for number in range(first, first + count):
        folder.with_name("current").write_text(str(number))
        rng = Random(f"{name} {number}")
        file, mutation = rng.choice(kind.files)
        damaged = mutation(rng, (whole / file).read_bytes())
        (folder / file).write_bytes(damaged)
        kind.after(folder)
        found = list[str]()
        with _limited():
            watch.on = True
            _read(kind, folder, counts, found, watch)
        wrong += [f"input {number}, {file}: {what}" for what in (*found, *watch.seen)]
        watch.seen.clear()
        for one, _ in kind.files:
            shutil.copy(whole / one, folder / one)
        if kind.after is _give_digest:
            shutil.copy(whole / "backbone/backbone.json", folder / "backbone/backbone.json")
    return dict(counts), wrong


def _read(kind: Kind, folder: Path, counts: Counter[str], wrong: list[str], watch: _Watch) -> None:
    """Calls every part; a clear refusal that names a file is right, and so is taking the input."""
    outcome, failures = "taken", list[Exception]()
    watch.on = True
    try:
        parts = kind.parts(folder)
    except Exception as error:
        parts = [_raising(error)]
    for part in parts:
        try:
            part()
        except JobError as error:
            outcome, text = "refused", str(error)
            if "\n" in text or not (str(folder) in text or "shard-0" in text):
                wrong.append(f"an unclear line: {text[:300]!r}")
        except Exception as error:
            failures.append(error)
    watch.on = False
    counts["failed" if failures else outcome] += 1
    for error in failures:
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = " ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames)
        wrong.append(f"{type(error).__name__}: {str(error)[:200]!r} at {where}")


def _raising(error: Exception) -> Callable[[], object]:
    def part() -> None:
        raise error

    return part


@contextmanager
def _limited() -> Iterator[None]:
    """Let the kernel end the process over an input that takes too long."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
