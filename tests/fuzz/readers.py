"""What is fuzzed: valid files, how they are damaged, and who reads them.

`read_damaged` runs in a child process, which may die.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import sysconfig
import tarfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

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
from pipeline.images.source_image import read_source
from pipeline.precompute.verify import verify_shard
from pipeline.saliency.external import decode_mask
from pipeline.shardset import manifest
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.sources.pictures import open_pictures
from pipeline.storage.storage import open_store
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_tar, mutate_zip
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
FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"),
    *("os.truncate", "os.utime", "shutil.rmtree", "pickle.find_class"),
}
"""Events of Python that no reader causes."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHECKPOINT = "run/checkpoints/step-00000002"
WEIGHTS, INFO = f"{CHECKPOINT}/backbone/backbone.pth", f"{CHECKPOINT}/backbone/backbone.json"
SHARD = "shard-000000"

Parts = Callable[[Path], Iterator[Callable[[], object]]]


def make(folder: Path) -> None:
    """A shard set, a run on it that was killed after its first checkpoint, a tar, lists, arrays."""
    info = write_shard_set(folder / "set", num_images=3)
    config = small_run(folder / "set", folder / "run")
    write_config(config.out, config, info.plan_digest)
    (folder / "run" / "metrics.jsonl").write_text('{"kind": "train", "step": 2, "loss": 1.5}\n')
    network, features = plain_network(NETWORK)
    seen = Preprocessing(view_size=32, resize=36)
    about = BackboneInfo(architecture=NETWORK, feature_dim=features, preprocessing=seen)
    write_backbone(folder / CHECKPOINT / "backbone", network.state_dict(), about)
    shutil.copy(folder / "run" / "config.json", folder / CHECKPOINT)
    head = projection_head(NUM_FEATURES, 16, 8, num_layers=2, batch_norm=True).state_dict()
    method = {f"key_encoder.head.{n}": v for n, v in head.items()} | {"queue": torch.rand(4, 8)}
    momentum = build_backbone(config.encoder).state_dict()
    method |= {f"key_encoder.backbone.{n}": v for n, v in momentum.items()}
    torch.save({"method": method, "step": 2, "seen": [1, 2]}, folder / CHECKPOINT / "state.pt")
    names, pictures = [f"{number}.png" for number in range(4)], list[bytes]()
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), np.uint8)
        cv2.imwrite(str(folder / name), pixels)
        pictures.append((folder / name).read_bytes())
        (folder / f"{number}.json").write_text(json.dumps({"label": number}))
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name in names:
            tar.add(folder / name, f"d/{name}")
            tar.add(folder / name.replace("png", "json"), f"d/{name[0]}.json")
    rows = [f'{name},"a, {number}"\n' for number, name in enumerate(names)]
    (folder / "x.csv").write_text("path,label\n" + "".join(rows))
    (folder / "x.txt").write_text("\n".join(names))
    pq.write_table(pa.table({"path": names, "label": list("baba")}), folder / "named.parquet")
    cells = [{"bytes": data, "path": None} for data in pictures[:3]]
    held = pa.table({"image": [*cells, {"bytes": None, "path": names[3]}], "label": [0, 1, 0, 1]})
    pq.write_table(held, folder / "held.parquet", row_group_size=2, compression="zstd")
    np.save(folder / "x.npy", np.random.default_rng(0).random((6, 5, 4)))
    np.save(folder / "y.npy", np.eye(8, dtype=np.uint8) * 255)


def _of_set(folder: Path) -> Iterator[Callable[[], object]]:
    root = folder / "set"
    info = load_dataset_info(root)
    manifest.check_shards(root, info)
    reader = ShardSetReader(root, info)

    yield lambda: [reader.read_pixels(n) for n in range(min(3, reader.num_samples))]
    yield lambda: [verify_shard(open_store(root), shard, info) for shard in info.shards[:3]]
    yield reader.labels
    for read in (manifest.read_record, manifest.read_manifest, manifest.read_rejected):
        yield partial(read, root, SHARD)


def _listed(*names: str) -> Parts:
    def read(path: Path) -> None:
        found = open_pictures(path)
        for item in found.items:
            found.pixels(item)

    return lambda folder: iter([partial(read, folder / name) for name in names])


def _arrays(folder: Path) -> Iterator[Callable[[], object]]:
    for name in ("x.npy", "y.npy"):
        yield partial(read_source, (folder / name).read_bytes())
    yield partial(decode_mask, (folder / "y.npy").read_bytes(), 8, 8)


def _settings(folder: Path) -> Iterator[Callable[[], object]]:
    run, root = folder / "run", folder / "set"
    yield partial(read_config_file, run / "config.json", shards=root, out=run)
    yield partial(check_run_folder, run, small_run(root, run), load_dataset_info(root).plan_digest)
    yield partial(runs_on, folder, ["digest"])
    yield partial(read_run, run)


def _checkpoint(folder: Path) -> Iterator[Callable[[], object]]:
    yield partial(load_encoder, folder / "run", "momentum")
    yield partial(first_state, folder / "run", torch.device("cpu"))
    yield partial(load_head, folder / "run", "momentum")


def _backbone(folder: Path) -> Iterator[Callable[[], object]]:
    yield partial(load_backbone, folder / CHECKPOINT)
    yield partial(find_weights, str(folder / CHECKPOINT), NETWORK)
    yield partial(read_state_dict, folder / WEIGHTS)


KINDS: dict[str, tuple[list[str], Parts]] = {
    "shards": ([f"set/shards/{SHARD}.tar"], lambda folder: islice(_of_set(folder), 2)),
    "manifest": ([f"set/{name}/{SHARD}.parquet" for name in ("manifest", "rejected")], _of_set),
    "dataset.json": (["set/dataset.json"], _of_set),
    "foreign tar": (["x.tar"], _listed("x.tar")),
    "text lists": (["x.csv", "x.txt"], _listed("x.csv", "x.txt")),
    "parquet lists": (["named.parquet", "held.parquet"], _listed("named.parquet", "held.parquet")),
    "arrays": (["x.npy", "y.npy"], _arrays),
    "config.json": (["run/config.json"], _settings),
    "checkpoint": ([f"{CHECKPOINT}/state.pt", f"{CHECKPOINT}/config.json"], _checkpoint),
    "backbone": ([WEIGHTS, INFO], _backbone),
}
"""The files that are damaged, and what reads them: every input is read by one of the parts."""
READ_ANYTHING = ("text lists", "parquet lists", "config.json")
"""Kinds that may name any file."""
MUTATIONS = {".tar": mutate_tar, ".json": mutate_json, ".pt": mutate_zip, ".pth": mutate_zip}


class _Watch:
    """Notes what the process does while it is on, but for reading what it may read."""

    def __init__(self, folder: Path, anything: bool) -> None:
        readable = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "/proc", "/sys"}
        self._readable = ("/",) if anything else (f"{folder}/", *readable)
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if arguments[2] & WRITING or not path.startswith(self._readable):
                self.seen.append(f"open {path}")


def read_damaged(
    name: str, folder: Path, first: int, count: int
) -> tuple[dict[str, int], list[str]]:
    """Reads damaged inputs by number; returns how many were refused and taken, and what is wrong.

    The number of the input that is read is in the file `current` beside the folder.
    """
    folder.mkdir(parents=True)
    make(folder)
    files, parts = KINDS[name]
    whole = {file: (folder / file).read_bytes() for file in (*files, INFO)}
    watch, counts, wrong = _Watch(folder, name in READ_ANYTHING), Counter[str](), list[str]()
    for part in parts(folder):
        part()  # it imports, and the whole is taken
    limit = psutil.Process().memory_info().data + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    current = os.open(folder.with_name("current"), os.O_WRONLY | os.O_CREAT)
    for number in range(first, first + count):
        os.pwrite(current, b"%10d" % number, 0)
        rng = Random(f"{name} {number}")
        file = rng.choice(files)
        damaged = MUTATIONS.get(Path(file).suffix, mutate_bytes)(rng, whole[file])
        (folder / file).write_bytes(damaged)
        if file == WEIGHTS:  # whoever makes weights can give their digest as well
            about = json.loads(whole[INFO]) | {
                "weights_sha256": hashlib.sha256(damaged).hexdigest()
            }
            (folder / INFO).write_text(json.dumps(about))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        watch.on, error = True, _error(parts, number, folder)
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        found = [*watch.seen, *_faults(error, folder)]
        watch.seen.clear()
        counts["taken" if error is None else "refused"] += 1
        wrong += [f"input {number}, {file}: {fault}" for fault in found]
        for one in {file, INFO if file == WEIGHTS else file}:
            (folder / one).write_bytes(whole[one])
    return dict(counts), wrong


def _error(parts: Parts, number: int, folder: Path) -> Exception | None:
    try:
        some = list(parts(folder))
        some[number % len(some)]()
    except Exception as error:
        return error
    return None


def _faults(error: Exception | None, folder: Path) -> Iterator[str]:
    """What is wrong with an error: right is one line that names the file, or the reader's image."""
    if error is None or isinstance(error, ImageError):
        return
    text = str(error)
    if not isinstance(error, JobError):
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = " ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames)
        yield f"{type(error).__name__}: {text[:200]!r} at {where}"
    elif "\n" in text or not (str(folder) in text or SHARD in text):
        yield f"an unclear line: {text[:300]!r}"
