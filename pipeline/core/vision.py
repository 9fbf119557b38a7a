"""Import torchvision without torch's compiler, which takes longer than all of torchvision.

One of its files imports a function of the compiler that only detection calls.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch  # noqa: F401  (complete before a stand-in for a part of it is there)

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


def _is_compile_supported(device_type: str) -> bool:
    found: bool = importlib.import_module(UTILS).is_compile_supported(device_type)
    return found


class _StandIn(ModuleType):
    """Stands in for a module, and imports it at the first use of an attribute not set here."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        # `inspect` asks every module for its file; a missing submodule asks its package for a path.
        if name.startswith("__") and (self.__name__, name) != (COMPILER, "__path__"):
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in (COMPILER, UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _import_torchvision() -> ModuleType:
    if COMPILER not in sys.modules:
        sys.modules |= {name: _StandIn(name) for name in (COMPILER, UTILS)}
        vars(sys.modules[UTILS])["is_compile_supported"] = _is_compile_supported
    try:
        return importlib.import_module("torchvision")
    finally:
        _remove_stand_ins()


torchvision = _import_torchvision()
