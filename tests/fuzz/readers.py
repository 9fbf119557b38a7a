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
from pipeline.images.codecs import encode_png
from pipeline.images.preprocessing import Preprocessing
from pipeline.precompute.verify import verify_shard
from pipeline.shardset import manifest
from pipeline.shardset.manifest import load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.sources.pictures import open_pictures
from pipeline.storage.storage import open_store
from tests.conftest import ROOT
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_tar, mutate_zip
from tests.runs import NETWORK, small_run
from tests.shard_sets import write_shard_set
from training.config.file import check_run_folder, read_config_file, runs_on, write_config
from training.encoders.encoder import build_backbone, projection_head
from training.encoders.export import load_encoder, load_head
from training.engine.start import first_state
from training.report.state import read_run

CPU_SECONDS, MEMORY = 5.0, 3 << 30
"""For one input, and beside what the process has; the kernel ends the process that takes longer."""
FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"),
    *("os.truncate", "os.utime", "shutil.rmtree", "pickle.find_class"),
}
"""Events of Python that no reader causes."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHECKPOINT, SHARD = "run/checkpoints/step-00000002", "shard-000000"
WEIGHTS, INFO = f"{CHECKPOINT}/backbone/backbone.pth", f"{CHECKPOINT}/backbone/backbone.json"
Parts = Callable[[Path], Iterator[Callable[[], object]]]


def make(folder: Path) -> None:
    """A shard set, a run on it that was killed after its first checkpoint, a tar, and lists."""
    config = small_run(folder / "set", folder / "run")
    info = write_shard_set(folder / "set", num_images=3)
    write_config(config.out, config, info.plan_digest)
    network, features = plain_network(NETWORK)
    seen = Preprocessing(view_size=32, resize=36)
    about = BackboneInfo(architecture=NETWORK, feature_dim=features, preprocessing=seen)
    write_backbone(folder / CHECKPOINT / "backbone", network.state_dict(), about)
    shutil.copy(folder / "run" / "config.json", folder / CHECKPOINT)
    parts = {"backbone": build_backbone(config.encoder), "head": projection_head(features, 16, 8)}
    states = {part: module.state_dict() for part, module in parts.items()}
    method = {f"key_encoder.{part}.{n}": v for part in states for n, v in states[part].items()}
    torch.save({"method": method, "seen": [1, 2]}, folder / CHECKPOINT / "state.pt")
    pictures = [encode_png(np.full((8, 9, 3), 60 * number, np.uint8)) for number in range(4)]
    with tarfile.open(folder / "x.tar", "w") as tar:
        for number, data in enumerate(pictures):
            (folder / f"{number}.png").write_bytes(data)
            (folder / f"{number}.json").write_text(json.dumps({"label": number}))
            for suffix in ("png", "json"):
                tar.add(folder / f"{number}.{suffix}", f"d/{number}.{suffix}")
    rows = [f'{number}.png,"a, {number}"\n' for number in range(4)]
    (folder / "x.csv").write_text("path,label\n" + "".join(rows))
    cells: list[dict[str, bytes | str | None]] = [
        {"bytes": data, "path": None} for data in pictures[:3]
    ]
    cells.append({"bytes": None, "path": "3.png"})
    table = pa.table({"image": cells, "label": list("abab")})
    pq.write_table(table, folder / "x.parquet", row_group_size=2, compression="zstd")


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


def _listed(name: str) -> Parts:
    def read(path: Path) -> None:
        found = open_pictures(path)
        for item in found.items:
            found.pixels(item)

    return lambda folder: iter([partial(read, folder / name)])


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
    "csv list": (["x.csv"], _listed("x.csv")),
    "parquet list": (["x.parquet"], _listed("x.parquet")),
    "config.json": (["run/config.json"], _settings),
    "checkpoint": ([f"{CHECKPOINT}/state.pt", f"{CHECKPOINT}/config.json"], _checkpoint),
    "backbone": ([WEIGHTS, INFO], _backbone),
}
"""The files that are damaged, and what reads them: every input is read by one of the parts."""
NAMES_FILES = ("csv list", "parquet list", "config.json")
"""Kinds that may name any file to read."""
MUTATIONS = {".tar": mutate_tar, ".json": mutate_json, ".pt": mutate_zip, ".pth": mutate_zip}


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
    code = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(ROOT)}
    readable = ("/",) if name in NAMES_FILES else (f"{folder}/", "/proc", "/sys", *code)
    counts, wrong, seen, is_on = Counter[str](), list[str](), list[str](), False

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in FORBIDDEN:
            seen.append(f"{event} {arguments[:2]}")
        elif is_on and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if arguments[2] & WRITING or not path.startswith(readable):
                seen.append(f"open {path}")

    sys.addaudithook(hear)
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
            digest = {"weights_sha256": hashlib.sha256(damaged).hexdigest()}
            (folder / INFO).write_text(json.dumps(json.loads(whole[INFO]) | digest))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        is_on = True
        outcome, fault = _read(parts, number, folder)
        is_on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        counts[outcome] += 1
        wrong += [f"input {number}, {file}: {what}" for what in (fault, *seen) if what]
        seen.clear()
        for one in {file, INFO if file == WEIGHTS else file}:
            (folder / one).write_bytes(whole[one])
    return dict(counts), wrong


def _read(parts: Parts, number: int, folder: Path) -> tuple[str, str]:
    """Whether an input is taken or refused, and what is wrong: not one line that names the file."""
    try:
        some = list(parts(folder))
        some[number % len(some)]()
    except (JobError, ImageError) as error:
        text = str(error)  # whoever has an image names it
        is_named = isinstance(error, ImageError) or str(folder) in text or SHARD in text
        return "refused", "" if is_named and "\n" not in text else f"an unclear line: {text!r}"
    except Exception:
        return "failed", traceback.format_exc(limit=-4)
    return "taken", ""
