"""Shard sets from Python: made, read by number, and read by the webdataset library."""

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import check
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import builder
from pipeline.precompute.run import run_precompute
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import JSON_MEMBER, LABEL_MEMBER, SALIENCY_MEMBER, shard_file
from pipeline.shardset.shared_images import hashed_shards
from pipeline.storage.storage import SYNTHETIC, Location, is_url

if TYPE_CHECKING:
    import webdataset

NO_IMAGES = (SALIENCY_MEMBER, JSON_MEMBER, LABEL_MEMBER)
"""Members of a sample that are not its image."""


class Sample(NamedTuple):
    """Image, uint8 [H, W, C], RGB of three; saliency, uint8 [S, S], 255 is 1; label, -1: none."""

    image: NDArray[np.uint8]
    saliency: NDArray[np.uint8]
    label: int


class ShardSet:
    """A complete shard set: a sequence of samples, in the order of their numbers.

    >>> shards = ShardSet("shards")
    >>> shards
    ShardSet(shards: 6 images, 3 classes)
    >>> image, saliency, label = shards[0]
    >>> image.shape, saliency.shape, shards.class_names[label]
    ((48, 64, 3), (56, 56), 'class_0')
    >>> shards.names[0]
    'class_0/picture 3.tif'

    Args:
        place: folder, or s3://, gs:// or az:// prefix.

    Raises:
        InputError: there is no complete set, or it is damaged.
    """

    def __init__(self, place: Location) -> None:
        self.place = located(place)
        self.info = load_dataset_info(self.place)
        check_shards(self.place, self.info)
        self._reader = ShardSetReader(self.place, self.info)

    def __repr__(self) -> str:
        classes = f"{len(self.class_names)} classes" if self.class_names else "no labels"
        return f"ShardSet({Path(str(self.place)).name}: {len(self)} images, {classes})"

    def __len__(self) -> int:
        return self._reader.num_samples

    def __getitem__(self, number: int) -> Sample:
        """A sample, negative numbers from the end; DamagedSample where it cannot be read."""
        number = number + len(self) if number < 0 else number
        return Sample(*self._reader.read_pixels(number), self._reader.read(number).label)

    @property
    def class_names(self) -> tuple[str, ...]:
        """A label is an index into them; empty: there are no labels."""
        return self.info.class_names

    @cached_property
    def names(self) -> list[str]:
        """The names of the images' files, by number."""
        return [name for name, _ in hashed_shards(self.place, self.info)]

    def as_webdataset(self) -> "webdataset.WebDataset":
        """The webdataset library's own pipeline of samples, to be shuffled and loaded as any other.

        >>> pipeline = ShardSet("shards").as_webdataset().shuffle(100)
        >>> sorted(label for image, saliency, label in pipeline)
        [0, 0, 1, 1, 2, 2]

        InputError: the set is in a bucket.
        """
        import webdataset  # imports torch

        check(not is_url(self.place), f"{self.place}: webdataset reads local or mounted shards")
        files = [str(Path(self.place, shard_file(shard.name))) for shard in self.info.shards]
        # A loader process may get no shard, and a shard may hold no image.
        pipeline = webdataset.WebDataset(files, shardshuffle=False, empty_check=False)
        return pipeline.map(partial(_decoded, self.info.pixels.channels))


def _decoded(channels: int, members: dict[str, Any]) -> Sample:
    """A sample of the members of a tar, as their bytes."""
    (image,) = (members[n] for n in members if n not in NO_IMAGES and not n.startswith("__"))
    saliency = decode_saliency(members[SALIENCY_MEMBER])
    return Sample(decode_stored(image, channels), saliency, int(members.get(LABEL_MEMBER, -1)))


def precompute(
    images: Location,
    shards: Location,
    *,
    local: bool = False,
    ray: bool = False,
    **options: Any,  # noqa: ANN401
) -> ShardSet:
    """Make a shard set with saliency maps, or what is missing of it; that of `salmask precompute`.

    >>> precompute("pictures", "shards", saliency="centre", shard_images=4)
    ShardSet(shards: 6 images, 3 classes)

    Args:
        images: folder, bucket, pattern, list, table or tars (`PrecomputeConfig.data`).
        shards: folder or bucket of the set.
        local: in processes of this machine, whatever the number of images.
        ray: on Ray, however few they are.
        options: further fields of `PrecomputeConfig`.

    Raises:
        InputError: images, shards or options cannot be used.
    """
    config = PrecomputeConfig(data=located(images), out=located(shards), **options)
    run_precompute(config, builder(local=local, on_ray=ray))
    return ShardSet(shards)


def located(place: Location) -> Location:
    """A location with its path absolute, so that other processes find it, too."""
    is_path = not is_url(place) and not str(place).startswith(SYNTHETIC)
    return Path(place).expanduser().absolute() if is_path else place
