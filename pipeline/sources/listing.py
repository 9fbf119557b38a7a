"""What images there are, as a stream of arrow batches: never a Python object for each of many."""

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
"""One row per image, before it is read.

source: the image's name for people and for its key: relative to the data's root, or a URL; never
    an absolute local path. Bytes of a file name that are not UTF-8 are backslash escapes.
uri: where its bytes lie, if that is not `source`: a name in the data's store, or a URL.
offset, length: both set: a span of the file (a tar's member); only offset: a row of a parquet file.
num_bytes: of the image; -1 where nobody knows before it is read.
label: name of its class.
mask: where its mask lies: a name in the store of masks, or a URL.
mask_offset: set where the mask lies in the same file as the image, as `offset` says of the image.
mask_bytes: of the mask; -1 or null where nobody knows.
"""


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """What it takes to read the images of a listing; pickles.

    Attributes:
        store: where names are relative to.
        masks: where names of masks are relative to.
        image_column: of parquet files that hold the images themselves.
        mask_column: of parquet files that hold the masks themselves.
    """

    store: Store
    masks: Store | None = None
    image_column: str = ""
    mask_column: str = ""


@dataclass(kw_only=True)
class Listing:
    """A stream of rows; can be read once.

    Attributes:
        place: how the rows are read.
        batches: of LISTING_SCHEMA, in any order where `keeps_order` is False.
        keeps_order: whether the order has to stay, so that containers are read from front to back.
        counts_as_numbers: whether labels that are all integers are ordered by value.
        unlabelled: words after the source of an image that has no label; empty: no reason is given.
        num_ignored: files that are no images by name; known once the batches have been read.
        holds_masks: whether rows say where their masks are.
        takes_all: whether every image below the place's store is listed.
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
    """Collects rows until they make a batch."""

    def __init__(self) -> None:
        self._sources: list[str] = []
        self._num_bytes: list[int] = []
        self._more: dict[str, list[object]] = {}

    def add(self, source: str, num_bytes: int, **more: object) -> None:
        """Add a row; columns that are not given are null."""
        for name, value in more.items():
            if value is not None:
                column = self._more.setdefault(name, [])
                column.extend([None] * (len(self._sources) - len(column)))
                column.append(value)
        self._sources.append(source)
        self._num_bytes.append(num_bytes)

    @property
    def is_full(self) -> bool:
        """Whether it is time to take a batch."""
        return len(self._sources) >= BATCH_ROWS

    def take(self) -> pa.RecordBatch:
        """The rows so far; the buffer is empty afterwards."""
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
