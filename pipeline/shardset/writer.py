"""Write shards: plain WebDataset tars, the same bytes for the same samples.

The members of a sample stand together: `<key>.<jpg|png|webp>`, `<key>.saliency.png`,
`<key>.json` and, if there is a label, `<key>.cls`.
"""

import hashlib
import json
import tarfile
from typing import IO, Any

from pipeline.shardset.manifest import ShardInfo
from pipeline.shardset.schema import (
    JSON_MEMBER,
    LABEL_MEMBER,
    SALIENCY_MEMBER,
    sample_key,
)


class ShardWriter:
    """Appends samples to the open tar of a shard; `finish` comes last."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self._offset = self._num_images = 0
        self._digest = hashlib.sha256()

    def add(
        self, image: bytes, image_ext: str, saliency: bytes, about: dict[str, Any]
    ) -> dict[str, Any]:
        """Append the members of a sample; `about` has the `JSON_COLUMNS`.

        Returns:
            The sample's manifest row, without the statistics of its map.
        """
        key, label = sample_key(about["source"]), about["label"]
        row = {**about, "key": key, "shard": self._name, "index": self._num_images}
        row["image_ext"] = image_ext
        for column, suffix, data in (
            ("image", image_ext, image),
            ("saliency", SALIENCY_MEMBER, saliency),
            ("json", JSON_MEMBER, json.dumps(about, sort_keys=True).encode()),
        ):
            row[f"{column}_offset"] = self._member(f"{key}.{suffix}", data)
            row[f"{column}_length"] = len(data)
        if label is not None:
            self._member(f"{key}.{LABEL_MEMBER}", str(label).encode())
        self._num_images += 1
        return row

    def copy(self, member: bytes) -> int:
        """Append a member of another archive, whole blocks, as it is; return where it begins."""
        offset = self._offset
        self._write(member)
        return offset

    def finish(self) -> ShardInfo:
        """Close the archive (two empty blocks, padded to a record) and describe it."""
        end = self._offset + 2 * tarfile.BLOCKSIZE
        self._write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
        return ShardInfo(
            name=self._name,
            num_images=self._num_images,
            num_bytes=self._offset,
            sha256=self._digest.hexdigest(),
        )

    def _member(self, name: str, data: bytes) -> int:
        """Append a file; return the offset of its content."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o644
        header.uname = header.gname = "salmask"
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._offset
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._offset += len(data)
