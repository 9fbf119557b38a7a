"""List images as a stream of arrow batches, without a Python object per image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.storage.storage import Store

BATCH_ROWS = 1 << 16

LISTING_SCHEMA = pa.schema(
    [
        pa.field("source", pa.large_string(), nullable=False),
        pa.field("uri", pa.large_binary()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("label", pa.large_string()),
        pa.field("mask", pa.large_binary()),
        pa.field("mask_offset", pa.int64()),
        pa.field("mask_bytes", pa.int64()),
    ]
)
"""One row per image.

source: the name of the image, from which its key is made: relative to the data's root, or a URL,
    never an absolute local path. Bytes of a file name that are not UTF-8 are backslash escapes.
uri: the name of its file in the data's store, or a URL; null if that is `source`.
offset, length: with both, a span of the file (a tar's member); with offset alone, a row of a
    parquet file.
num_bytes: size of the image; -1 if it is unknown.
label: name of its class.
mask: the name of its mask in the store of masks, or a URL.
mask_offset: like `offset`, if the mask is in the same file as the image.
mask_bytes: size of the mask; -1 or null if it is unknown.
"""


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """How to read the images of a listing. It can be pickled.

    Attributes:
        store: names of images are relative to it.
        masks: names of masks are relative to it.
        image_column: of parquet files that contain the images.
        mask_column: of parquet files that contain the masks.
    """

    store: Store
    masks: Store | None = None
    image_column: str = ""
    mask_column: str = ""


@dataclass(kw_only=True)
class Listing:
    """A stream of rows. It can be read once.

    Attributes:
        place: how to read the images.
        batches: of LISTING_SCHEMA; their order matters only if `keeps_order`.
        keeps_order: whether to keep the order, so that containers are read sequentially.
        counts_as_numbers: whether labels that are all integers are sorted by value.
        unlabelled: the message after the source of an image without a label; empty: none.
        num_ignored: files that are not images by name, known after the batches have been read.
        holds_masks: whether rows locate their masks.
        takes_all: whether the listing has every image below the store.
    """

    place: DataPlace
    batches: Iterator[pa.RecordBatch]
    keeps_order: bool = False
    counts_as_numbers: bool = False
    unlabelled: str = ""
    num_ignored: int = 0
    holds_masks: bool = False
    takes_all: bool = False


class RowBuffer:
    """Collects rows into batches."""

    def __init__(self) -> None:
        self._sources: list[str] = []
        self._num_bytes: list[int] = []
        self._more: dict[str, list[object]] = {}

    def add(self, source: str, num_bytes: int, **more: object) -> None:
        """Add a row; other columns are null."""
        for name, value in more.items():
            if value is not None:
                column = self._more.setdefault(name, [])
                column.extend([None] * (len(self._sources) - len(column)))
                column.append(value)
        self._sources.append(source)
        self._num_bytes.append(num_bytes)

    @property
    def is_full(self) -> bool:
        """Whether the rows fill a batch."""
        return len(self._sources) >= BATCH_ROWS

    def take(self) -> pa.RecordBatch:
        """Return the rows as a batch and empty the buffer."""
        count = len(self._sources)
        values: dict[str, Sequence[object]] = {
            "source": self._sources,
            "num_bytes": self._num_bytes,
            **self._more,
        }
        arrays = []
        for column in LISTING_SCHEMA:
            some = values.get(column.name, [])
            arrays.append(pa.array([*some, *[None] * (count - len(some))], column.type))
        self._sources, self._num_bytes, self._more = [], [], {}
        return pa.record_batch(arrays, schema=LISTING_SCHEMA)
