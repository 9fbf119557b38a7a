"""Settings of the stream. They import no torch."""

from typing import Literal

OnDamaged = Literal["raise", "skip"]
"""What becomes of a damaged sample: an error, or another sample in its place."""
