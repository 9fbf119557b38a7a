"""`onnx`: the output of any salient-object network that lies in a file of ONNX.

Made for U2-Net, ISNet, BiRefNet and their relatives: one input of RGB images, scaled to a square;
an output of one channel, which is the map.
"""

import functools
import glob
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.saliency.interface import (
    Image,
    Map,
    SaliencySource,
    check_digest,
    flat_map,
    is_flat,
    resize,
    spread_out,
)

DEFAULT_SIDE = 320
"""Pixels; for a network that takes images of any size. U2-Net was trained at 320."""
MAX_SIDE = 4096
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
SLACK = 1e-3
"""How far above 1 or below 0 a probability may be: rounding, half precision."""
MAX_BATCH = 16
PROBE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Onnx(SaliencySource):
    """The map that a network in ONNX form computes.

    The network's input is float32 or float16 [B, 3, side, side] or [B, side, side, 3], with B free
    or fixed. Its output is [B, 1, h, w], [B, h, w, 1] or [B, h, w].

    Attributes:
        model: the file. Weights in files beside it (`model.onnx.data`) are read, too.
        output: name of the output that is the map; empty: the first one.
        activation: `none` for an output in [0, 1]; `sigmoid` for logits, as BiRefNet's.
        stretch: whether each map is scaled to run from 0 to 1, as U2-Net's and ISNet's are.
        side: pixels of the network's input; 0: what the file says, or 320 where it says nothing.
        mean: of R, G and B in [0, 1], subtracted; ISNet wants 0.5/0.5/0.5.
        std: of R, G and B, divided by; ISNet wants 1/1/1.
        model_digest: sha256 that the files must have; set by `pinned`.
    """

    wants_gpu = True  # where onnxruntime is built for it

    model: str = ""
    output: str = ""
    activation: Literal["none", "sigmoid"] = "none"
    stretch: bool = True
    side: int = 0
    mean: str = "0.485/0.456/0.406"
    std: str = "0.229/0.224/0.225"
    model_digest: str = ""

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("saliency onnx wants the network's file: onnx:model=FILE.onnx")
        if not 0 <= self.side <= MAX_SIDE:
            raise InputError(f"saliency onnx wants a side of 0 to {MAX_SIDE}, got {self.side}")
        _three("mean", self.mean)
        if not (_three("std", self.std) > 0).all():
            raise InputError(f"saliency onnx wants a std above 0, got {self.std!r}")

    def pinned(self) -> "Onnx":
        """Run the network once on noise, and bind the source to its files by their digest.

        Raises:
            InputError: a file that is not there or no ONNX, another input than described above, an
                unknown output, or values outside [0, 1] without a sigmoid.
        """
        path = Path(self.model).expanduser().resolve()
        pinned = replace(self, model=str(path), model_digest=files_digest(path))
        noise = np.random.default_rng(PROBE_SEED).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        pinned([noise])
        return pinned

    def parameters(self) -> dict[str, object]:
        """What decides the maps, with the file's name and digest in place of its path."""
        path, side = Path(self.model).expanduser(), self._network().side
        own = {"model": path.name, "model_digest": files_digest(path), "side": side}
        return {**super().parameters(), **own}

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps of the network's output size.

        Raises:
            InputError: as `pinned`, or files that have changed since.
        """
        maps = [flat_map() for _ in images]
        wanted = [number for number, image in enumerate(images) if not is_flat(image)]
        most = self._network().max_batch if wanted else 1
        for first in range(0, len(wanted), most):
            part = wanted[first : first + most]
            batch = np.stack([self._input(images[number]) for number in part])
            for number, output in zip(part, self._network().run(batch), strict=True):
                maps[number] = self._map(output)
        return maps

    def _network(self) -> "Network":
        return load_network(self.model, self.output, self.side, self.model_digest)

    def _input(self, image: Image) -> NDArray[np.float32]:
        """float32 [side, side, 3], normalised."""
        scaled = resize(image, (self._network().side,) * 2)
        normalised = (scaled / 255 - _three("mean", self.mean)) / _three("std", self.std)
        return np.asarray(normalised, np.float32)

    def _map(self, output_hw: NDArray[np.float32]) -> Map:
        low, high = float(output_hw.min()), float(output_hw.max())
        if not np.isfinite(low + high):
            raise InputError(f"the network {self.model} gives values that are not finite")
        if self.activation == "sigmoid":
            output_hw = 1 / (1 + np.exp(-output_hw.clip(-50, 50)))
        elif low < -SLACK or high > 1 + SLACK:
            raise InputError(
                f"the network {self.model} gives values from {low:.3g} to {high:.3g}, outside "
                "[0, 1]: add activation=sigmoid"
            )
        return spread_out(output_hw) if self.stretch else output_hw.clip(0, 1).astype(np.float32)


class Network:
    """A network in a file, ready to run; the arguments are those of `Onnx`.

    `side` is that of its square input in pixels, `max_batch` the images that it takes at once.

    Raises:
        InputError: see `Onnx.pinned`; or the files have another digest than `planned`.
    """

    def __init__(self, model: str, output: str, side: int, planned: str) -> None:
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise InputError(
                "saliency onnx needs onnxruntime: pip install onnxruntime, or onnxruntime-gpu"
            ) from error
        path = Path(model).expanduser()
        check_digest(f"the files of {model}", files_digest(path), planned)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process a core
        available = onnxruntime.get_available_providers()
        providers = [provider for provider in PROVIDERS if provider in available]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no common class
            reason = " ".join(str(error).split())
            raise InputError(f"{model} is no network in ONNX form: {reason}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise InputError(
                f"the network {model} has {len(inputs)} inputs ({names}), wanted is one"
            )
        shape, kind = inputs[0].shape, inputs[0].type
        self._channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
        if len(shape) != 4 or not (self._channels_last or shape[1] == 3) or kind not in TYPES:
            raise InputError(
                f"the network {model} takes {kind} of shape {shape}, wanted is float32 or float16 "
                "[B, 3, side, side] or [B, side, side, 3]"
            )
        outputs = [one.name for one in self._session.get_outputs()]
        if output and output not in outputs:
            raise InputError(
                f"the network {model} has no output {output!r}: it has {', '.join(outputs)}"
            )
        known = shape[1:3] if self._channels_last else shape[2:]
        sides = {one for one in (*known, side or known[0]) if isinstance(one, int)}
        if len(sides) > 1:
            raise InputError(
                f"the network {model} takes images of {known[0]} x {known[1]} pixels, wanted is a "
                f"square{f' of side={side}' if side else ''}"
            )
        self.side: int = next(iter(sides), DEFAULT_SIDE)
        self._fixed_batch = shape[0] if isinstance(shape[0], int) else None
        self.max_batch = self._fixed_batch or MAX_BATCH
        self._input, self._dtype = inputs[0].name, TYPES[kind]
        self._output = output or outputs[0]

    def run(self, inputs_BSS3: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps float32 [B, h, w] of at most `max_batch` inputs."""
        count = len(inputs_BSS3)
        missing = (self._fixed_batch or count) - count
        batch: NDArray[Any] = np.pad(inputs_BSS3, ((0, missing), (0, 0), (0, 0), (0, 0)))
        batch = batch if self._channels_last else batch.transpose(0, 3, 1, 2)
        batch = np.ascontiguousarray(batch, self._dtype)
        (output,) = self._session.run([self._output], {self._input: batch})
        shape = output.shape
        if output.ndim == 4 and 1 in (shape[1], shape[3]):
            output = output[:, 0] if shape[1] == 1 else output[..., 0]
        if output.ndim != 3 or len(output) != len(batch):
            raise InputError(
                f"output {self._output!r} of the network has shape {list(shape)}, wanted is a "
                "map for each image, [B, 1, h, w] or [B, h, w]: output=NAME takes another one"
            )
        return np.asarray(output[:count], np.float32)


load_network = functools.lru_cache(maxsize=2)(Network)
"""Makes a `Network` once in each process."""


def files_digest(path: Path) -> str:
    """The sha256 of a model's file and of the files of weights beside it, by name."""
    if not path.is_file():
        raise InputError(f"there is no network at {path}")
    whole = hashlib.sha256()
    for file in sorted(path.parent.glob(f"{glob.escape(path.name)}*")):
        if file.is_file():
            with file.open("rb") as opened:
                whole.update(f"{file.name.removeprefix(path.name)}\n".encode())
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def _three(name: str, text: str) -> NDArray[np.float64]:
    """Three numbers as `0.5/0.5/0.5`."""
    try:
        values = np.array([float(part) for part in text.split("/")])
    except ValueError:
        values = np.array([])
    if values.shape != (3,) or not np.isfinite(values).all():
        raise InputError(f"saliency onnx wants {name} as three numbers, R/G/B, got {text!r}")
    return values
