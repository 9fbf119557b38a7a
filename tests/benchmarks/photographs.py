"""Where the photographs lie that are no part of the repository."""

import os
from pathlib import Path

from pipeline.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def shared_photographs() -> Path:
    """The folder of real photographs: `data` below SALMASK_SHARED, or beside the checkout.

    Raises:
        InputError: it is absent.
    """
    folder = Path(os.environ.get("SALMASK_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        raise InputError(
            f"there are no photographs at {folder}, and the repository has none: set "
            "SALMASK_SHARED to the folder whose `data` holds them"
        )
    return folder
