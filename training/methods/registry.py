"""The methods by name. A new one: a folder with settings and method, and one line here."""

import importlib
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:  # torch is not on the way of --help
    from training.methods.interface import Method

METHODS: dict[str, Union[str, "type[Method]"]] = {
    "moco_v2": "training.methods.moco.method:MoCoV2",
    "simclr": "training.methods.simclr.method:SimCLR",
    "byol": "training.methods.byol.method:BYOL",
    "vicreg": "training.methods.vicreg.method:VICReg",
}
"""Classes, or modules and their classes as text, which are loaded when they are used."""


def find_method(name: str) -> "type[Method]":
    """The class of a method; its name is that of its settings."""
    found = METHODS[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        loaded: type[Method] = getattr(importlib.import_module(module), attribute)
        return loaded
    return found


def load_settings() -> None:
    """Import the settings of every method, so that they can be chosen by name."""
    for method in METHODS.values():
        if isinstance(method, str):
            importlib.import_module(f"{method.partition(':')[0].rpartition('.')[0]}.settings")
