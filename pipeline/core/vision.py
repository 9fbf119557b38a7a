"""Import torchvision without torch's compiler, which takes longer than all of torchvision.

One of its files asks the compiler at once for a function that only detection calls.
"""

import importlib
import sys
from types import ModuleType

import torch  # noqa: F401  (complete before a stand-in for a part of it is there)

COMPILER = "torch._dynamo"


def _is_compile_supported(device_type: str) -> bool:
    found: bool = importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type)
    return found


def _import_torchvision() -> ModuleType:
    """Import it with a stand-in for the compiler, unless that is there; or as usual."""
    if COMPILER not in sys.modules:
        stand_in, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
        vars(utils)["is_compile_supported"] = _is_compile_supported
        sys.modules |= {COMPILER: stand_in, f"{COMPILER}.utils": utils}
        try:
            return importlib.import_module("torchvision")
        except (ImportError, AttributeError):  # this version of torchvision asks for more
            pass
        finally:
            del sys.modules[COMPILER], sys.modules[f"{COMPILER}.utils"]
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()
