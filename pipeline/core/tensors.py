"""Read what `torch.save` wrote, without running code that is in it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from pipeline.core.architectures import first_line


def read_tensors(file: Path | IO[bytes], device: torch.device | str = "cpu") -> Any:  # noqa: ANN401
    """Tensors and plain values of a file, on a device.

    Raises:
        ValueError: it cannot be read, or holds other objects; one line.
    """
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except UnpicklingError as error:  # whose message advises to run what is in the file
        raise ValueError(
            "it is damaged, or holds more than tensors and plain values, which could run code"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise ValueError(first_line(error)) from error
