"""The protocols by name. A new one: a function in a file of its own, and a line below.

A protocol is called by every rank with the same arguments, splits its work over them, and returns
the same results everywhere. Detection, whose images have boxes, is not one of them: see
`training.evaluate.detection`.
"""

from collections.abc import Callable, Sequence

from pipeline.core.errors import InputError
from training.evaluate.backgrounds import backgrounds
from training.evaluate.case import Case
from training.evaluate.config import DETECTION
from training.evaluate.diagnostics import diagnostics
from training.evaluate.finetune import finetune
from training.evaluate.knn import knn
from training.evaluate.linear import linear
from training.evaluate.linear_paper import linear_paper
from training.evaluate.results import Result

PROTOCOLS: dict[str, Callable[[Case], list[Result]]] = {
    "knn": knn,
    "linear": linear,
    "linear_paper": linear_paper,
    "finetune": finetune,
    "backgrounds": backgrounds,
    "diagnostics": diagnostics,
}
LABEL_FREE = frozenset({"diagnostics"})
"""Protocols that need no labels: with these alone, classes are not compared."""


def chosen_protocols(names: Sequence[str]) -> list[str]:
    """The names of protocols of labelled images, each once; none for detection.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    for name in names:
        if name not in PROTOCOLS and name != DETECTION:
            known = ", ".join((*PROTOCOLS, DETECTION))
            raise InputError(f"unknown protocol {name!r}: choose from {known}")
    return [name for name in dict.fromkeys(names) if name != DETECTION]
