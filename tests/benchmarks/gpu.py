"""What a GPU gives, without Ray and within 10 minutes: speed, waiting, decoding, determinism.

    python -m tests.benchmarks.gpu                        # JSON, a line for each part; a table
    python -m tests.benchmarks.gpu --device cpu --small   # whether it runs: its figures say nothing

Each part has its own time limit and prints its line as it ends. Pictures are made here (500 x 375).
Arms are recipes: moco_v2_imagenet100 (masked queries, hard negatives) and simclr_small (object
head, hard negatives), both with ResNet-50 at 224 px, a batch of 256 and bfloat16.
"""

import argparse
import importlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import decode_jpeg, encode_jpeg

from jobs.cli import main
from pipeline.core.errors import check
from pipeline.images.codecs import decode_stored
from pipeline.saliency.onnx_network import PROVIDERS, Onnx
from tests.benchmarks.test_step_cost import smooth_images
from tests.benchmarks.timing import machine
from tests.runs import NETWORK, StopsAfter
from tests.shard_sets import write_images
from training.config.pretrain import PretrainConfig
from training.config.recipes import find_recipe
from training.config.settings import CheckpointConfig, KnnConfig
from training.core.context import LocalContext
from training.encoders.settings import EncoderConfig
from training.engine.local import launch
from training.engine.loop import Trainer
from training.record.metrics import read_metrics
from training.views.settings import ViewConfig

Figures = dict[str, Any]
MASKED, OBJECT_HEAD, BASELINE = "moco_v2_imagenet100", "simclr_small", "_baseline"
NO_CUDA = "skipped: no CUDA"


class Bench:
    """Pictures, runs of a few steps, and a clock that waits for the device."""

    def __init__(self, device: str, root: Path, *, small: bool) -> None:
        self.device, self.root, self.small = torch.device(device), root, small
        self.cuda, self.num_runs = self.device.type == "cuda", 0
        self.batch, self.steps, count = (8, 1, 16) if small else (256, 20, 1024)
        images = smooth_images(count)
        write_images(root / "shards", images, [0] * count, ext="jpg")
        pixels = (torch.from_numpy(one).permute(2, 0, 1) for one in images[: self.batch])
        self.jpegs = [encode_jpeg(one, quality=95) for one in pixels]

    def config(self, recipe: str, **changes: Any) -> PretrainConfig:  # noqa: ANN401
        """A recipe with this benchmark's network, views and batch, in a folder of its own."""
        self.num_runs += 1
        run = find_recipe(recipe)(self.root / "shards", self.root / f"run-{self.num_runs}")
        own: Figures = {"batch_size": self.batch, "epochs": 1000, "precision": "bf16"}
        own |= {"knn": KnnConfig(every_epochs=999), "checkpoint": CheckpointConfig(every_epochs=0)}
        own |= {"encoder": EncoderConfig(architecture="resnet50"), "views": ViewConfig()}
        if self.small:
            own |= {"encoder": EncoderConfig(architecture=NETWORK), "precision": "fp32"}
            own |= {"views": ViewConfig(size=32, grid=4)}
            own |= {"method": replace(run.method, batch_norm_group=4)}
        return replace(run, **own | changes)

    def train(self, config: PretrainConfig) -> tuple[Trainer, Figures]:
        """Steps on batches that lie in memory, and their speed; each loss is finite."""
        trainer = Trainer(config, LocalContext(self.device))
        batches, start = [trainer.dataset[number] for number in range(2)], self.now()
        losses = [trainer.train_step(batches[0]).loss.detach()]
        first = self.now() - start
        mode: Any = nullcontext() if config.encoder.compile else FlopCounterMode(display=False)
        with mode as counter:
            trainer.train_step(batches[1])
        start, some = self.now(), (batches[number % 2] for number in range(self.steps))
        losses += [trainer.train_step(batch).loss.detach() for batch in some]
        rate = self.steps / (self.now() - start)
        trainer.record.close(finished=False)
        assert torch.stack(losses).isfinite().all(), losses
        flop = rate * counter.get_total_flops() if counter else 0
        return trainer, {"images/s": self.batch * rate, "FLOP/s": flop, "first step s": first}

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


Part = Callable[[Bench], Figures]


def steps(bench: Bench) -> Figures:
    """Loading apart: images/s, the used share of the rate of matrix products, the masks' cost."""
    side, rounds = (256, 2) if bench.small else (8192, 50)
    matrix = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)
    matrix @ matrix
    start = bench.now()
    for _ in range(rounds):
        matrix @ matrix
    rate = 2 * side**3 * rounds / (bench.now() - start)
    bare = replace(find_recipe(MASKED)(Path(), Path()).masks, strategy="none")
    names = (MASKED, MASKED + BASELINE, OBJECT_HEAD, OBJECT_HEAD + BASELINE)
    arms = {name: bench.config(name) for name in names}
    arms["unmasked queries"] = bench.config(MASKED, masks=bare)
    arms["fp16"] = bench.config(OBJECT_HEAD, precision="fp16")
    found = {name: bench.train(config)[1] for name, config in arms.items()}
    cost = found["unmasked queries"]["images/s"] / found[MASKED]["images/s"] - 1
    speeds = {f"{name} images/s": one["images/s"] for name, one in found.items()}
    shares = {f"{name} of matrix": one["FLOP/s"] / rate for name, one in found.items()}
    return {"matrix TFLOP/s": rate / 1e12, **speeds, **shares, "masks' cost": cost}


def whole(bench: Bench) -> Figures:
    """A run with its loader: images/s, and the share of a step that waits for data."""
    every, workers = (1, 0) if bench.small else (10, max(1, (os.cpu_count() or 1) - 2))
    config = bench.config(MASKED, log_every_steps=every, loader_workers=workers)
    context = StopsAfter(6 * every)
    context.device = bench.device
    launch(config, context)
    lines = [line for line in read_metrics(config.out) if line["kind"] == "train"][1:]
    speed = 1 / float(np.mean([1 / float(line["images_per_second"]) for line in lines]))
    alone = bench.train(bench.config(MASKED))[1]["images/s"]
    return {"loaders": workers, "images/s": speed, "waiting": max(0.0, 1 - speed / alone)}


def decoding(bench: Bench) -> Figures:
    """JPEGs a second: by our decoder on one core, and by the GPU."""
    start = time.perf_counter()
    for jpeg in bench.jpegs:
        decode_stored(jpeg.numpy().tobytes())
    core = bench.batch / (time.perf_counter() - start)
    if not bench.cuda:
        return {"core images/s": core, "GPU images/s": NO_CUDA}
    decode_jpeg(bench.jpegs, device=bench.device)
    start = bench.now()
    decode_jpeg(bench.jpegs, device=bench.device)
    return {"core images/s": core, "GPU images/s": bench.batch / (bench.now() - start)}


def determinism(bench: Bench) -> Figures:
    """Largest difference of the weights of two runs of one seed, usually and by torch's switch."""

    def weights() -> Tensor:
        method = bench.train(bench.config(MASKED))[0].method
        return torch.cat([one.detach().flatten() for one in method.parameters()])

    found: Figures = {}
    for name, strict in (("usual", False), ("deterministic", True)):
        torch.use_deterministic_algorithms(strict)
        try:
            found[name] = float((weights() - weights()).abs().max())
        except RuntimeError as error:  # an operation has no such algorithm
            found[name] = str(error).partition("\n")[0]
        finally:
            torch.use_deterministic_algorithms(False)
    return found


def onnx(bench: Bench) -> Figures:
    """Maps a second of a small network, by `onnx` saliency."""
    available = importlib.import_module("onnxruntime").get_available_providers()
    provider = next(one for one in PROVIDERS if one in available)
    if bench.cuda and provider != PROVIDERS[0]:
        return {"images/s": "skipped: this onnxruntime has no CUDA"}
    network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1))
    file, side = str(bench.root / "model.onnx"), torch.zeros(1, 3, 320, 320)
    torch.onnx.export(network, (side,), file, input_names=["x"], dynamo=False)
    source = Onnx(model=file, activation="sigmoid").pinned()
    images, start = smooth_images(bench.batch), time.perf_counter()
    source(images)
    return {"provider": provider, "images/s": bench.batch / (time.perf_counter() - start)}


def compiled(bench: Bench) -> Figures:
    """torch.compile: seconds of the first step, and images/s after it."""
    if not bench.cuda:
        return {"images/s": NO_CUDA}
    config = bench.config(MASKED)
    return bench.train(replace(config, encoder=replace(config.encoder, compile=True)))[1]


PARTS: dict[Part, float] = {steps: 170, whole: 120, decoding: 20, determinism: 100}
PARTS |= {onnx: 20, compiled: 120}
"""What is measured, and the seconds that it may take."""


def measure(bench: Bench, part: Part) -> Figures:
    """The figures of a part, or why it has none."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {PARTS[part]} s")

    before, start = signal.signal(signal.SIGALRM, stop), time.perf_counter()
    timer = signal.setitimer(signal.ITIMER_REAL, PARTS[part])
    try:
        found = part(bench)
    except Exception as error:  # the other parts are still worth having
        found = {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
    return {"part": part.__name__, "seconds": time.perf_counter() - start, **found}


def run() -> int:
    """Measure; 1 where a part failed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--small", action="store_true")
    given, lines = options.parse_args(), list[Figures]()
    cuda = given.device != "cuda" or torch.cuda.is_available()
    check(cuda, "there is no NVIDIA GPU here: --device cpu --small tries the script without one")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for determinism
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(given.device, Path(root), small=given.small)
        for part in PARTS:
            lines.append(measure(bench, part))
            print(json.dumps(lines[-1]), flush=True)
    print(torch.cuda.get_device_name() if bench.cuda else "CPU", machine("torch", "torchvision"))
    for line in lines:
        for key, value in [*line.items()][1:]:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            print(f"  {line['part']:<12} {key:<40} {shown}")
    return int(any("failed" in line for line in lines))


if __name__ == "__main__":
    main(run)
