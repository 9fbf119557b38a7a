"""Before the work: list the images, plan the shards, and compare with what is there already."""

from dataclasses import dataclass, replace

from pipeline.core.errors import InputError
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.core.progress import numbered
from pipeline.precompute.amend import versions_file, versions_of, write_versions
from pipeline.precompute.config import EXTERNAL, PrecomputeConfig
from pipeline.precompute.history import (
    History,
    check_plan,
    new_images,
    parameter_difference,
    read_history,
    shards_of,
)
from pipeline.precompute.masks import check_masks, match_masks
from pipeline.precompute.plan import PlanInfo, make_plan, plan_file, rows_file, write_plan
from pipeline.shardset.manifest import ShardInfo
from pipeline.shardset.schema import (
    MANIFEST_FOLDER,
    REJECTED_FOLDER,
    REMOVAL_FILE,
    SHARDS_FOLDER,
    shard_name,
)
from pipeline.sources.listing import Collected, DataStore, Listing, collect, describe_ignored
from pipeline.sources.registry import open_source
from pipeline.storage.storage import open_store
from pipeline.storage.store import LocalStore, Store

MIB = 1 << 20
SHARD_STEM = shard_name(0).rstrip("0")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be made, and what is there already; its size does not depend on the images.

    Attributes:
        plans: of the shards that this run makes or checks, by generation.
        num_images: in these shards.
        last: the last plan of the set afterwards.
        kept, num_kept_rejected: shards that this run does not look at, and images rejected there.
        ignored: files that are not images, in words.
        began_before: whether an earlier run has begun the same.
        summary: of all this, for people.
    """

    data: DataStore
    plans: dict[int, PlanInfo]
    num_images: int
    last: PlanInfo
    kept: tuple[ShardInfo, ...]
    num_kept_rejected: int
    ignored: str
    began_before: bool
    summary: str


def begin(
    config: PrecomputeConfig, out: Store, saliency: dict[str, object], most: int | None = None
) -> Work:
    """List the images, plan the shards, and write the plan or find it written.

    With `most` the shards are of so many of the images only.

    Raises:
        InputError: the data or the output cannot be used, masks are missing, or another plan was
            begun there; nothing has been written then.
    """
    if isinstance(out, LocalStore) and out.root.exists() and not out.root.is_dir():
        raise InputError(f"--out {out.url} is a file: a folder is wanted")
    if out.size(REMOVAL_FILE) is not None:
        raise InputError(
            f"a removal of images from {out.url} is not finished: give its --remove again first"
        )
    masks = open_store(config.masks) if str(config.masks) else None
    listing = open_source(config.data, config.source_options)
    _check_locations(listing, out, masks)
    parameters = config.parameters(saliency)
    history = read_history(out)
    known_classes: tuple[str, ...] = ()
    if config.append:
        _check_append(out, history, parameters)
        known_classes = history.finished[-1].class_names
    takes = None if config.part == "all" else config.takes
    images = collect(replace(listing, takes=takes), known_classes)
    images = images if most is None else images.spread(most)
    data = listing.data
    if config.saliency == EXTERNAL:
        data = replace(data, masks=masks or data.masks)
        images = match_masks(images, masks) if masks else images
        if config.missing_masks == "error":
            check_masks(images, masks.url if masks else f"the column {config.mask_column}")
    if config.append:
        images = _labelled_as(images, history.finished[-1], out)
    listing = replace(listing, data=data)
    plans, num_known, began_before, history = _write_plan(
        config, out, listing, history, images, parameters
    )
    of_set = dict(enumerate(history.finished)) | plans
    others = [old for old in of_set if old not in plans]
    kept, num_kept_rejected = shards_of(out, history, others)
    last = of_set[max(of_set)]
    num_images = sum(plan.num_images for plan in plans.values())
    num_shards = sum(plan.num_shards for plan in plans.values())
    known = f"{numbered(num_known, 'image')} that the set has already, and " if num_known else ""
    labels = f"{len(last.class_names)} classes" if len(last.class_names) != 1 else "1 class"
    if not last.class_names:
        labels = f"no labels{_because(images)}"
    return Work(
        data=data,
        plans=plans,
        num_images=num_images,
        last=last,
        kept=kept,
        num_kept_rejected=num_kept_rejected,
        ignored=describe_ignored(images.ignored),
        began_before=began_before,
        summary=f"{known}{numbered(num_images, 'image')} ({labels}), "
        f"{describe_ignored(images.ignored)}; {numbered(num_shards, 'shard')} with saliency "
        f"({config.saliency}) for {out.url}",
    )


def _write_plan(
    config: PrecomputeConfig,
    out: Store,
    listing: Listing,
    history: History,
    images: Collected,
    parameters: dict[str, object],
) -> tuple[dict[int, PlanInfo], int, bool, History]:
    """Plan the new images, and write the plan or find it written.

    Returns:
        The plans to work on, by generation: of the new images and those of which rejected images
        have changed or, if an append has no new images, all plans whose images are listed; the
        number of images that the set has; whether the work was begun; the history afterwards.
    """
    generation, first_shard, follows, new = 0, 0, "", images
    plans: dict[int, PlanInfo] = {}
    if config.append:
        last = history.finished[-1]
        generation, first_shard = len(history.finished), last.first_shard + last.num_shards
        follows, before = last.set_digest, history.finished
        new, covered, history = new_images(out, listing.data, history, images)
        if not new.rows.num_rows:
            out.sweep()
            plans = {old: history.finished[old] for old in covered}
            return plans, images.rows.num_rows, True, history
        pairs = zip(before, history.finished, strict=True)
        plans = {old: now for old, (then, now) in enumerate(pairs) if then is not now}
    plan = make_plan(
        new,
        parameters,
        shard_images=config.shard_images,
        shard_bytes=config.shard_mib * MIB,
        first_shard=first_shard,
        follows=follows,
    )
    begun = check_plan(out, listing.data, plan, generation)
    if begun is not None:
        out.sweep()
    else:
        if generation:
            discard_shards(out, first_shard)  # of an append that was given up
        write_versions(out, map(versions_of, plan.rows), generation)
        write_plan(out, plan, generation)
    plans[generation] = begun or plan.info
    return plans, images.rows.num_rows - new.rows.num_rows, begun is not None, history


def _because(images: Collected) -> str:
    return f": {images.unlabelled_because}" if images.unlabelled_because else ""


def _check_append(out: Store, history: History, parameters: dict[str, object]) -> None:
    """An append needs a finished set that was made with the same settings."""
    if history.info is None:
        raise InputError(
            f"--append adds to a finished set, and there is none at {out.url}: run this without "
            "--append first, until it finishes"
        )
    if named := parameter_difference(history.finished[0].parameters, parameters):
        raise InputError(
            f"{out.url} was made with other settings ({named}): what is appended has to be made "
            "with the same"
        )


def _labelled_as(images: Collected, last: PlanInfo, out: Store) -> Collected:
    """All samples of a set have labels, or none: drop labels if the set has none."""
    if last.class_names and not images.class_names:
        why = _because(images)
        raise InputError(f"{out.url} has class labels, and what is appended has none{why}")
    if images.class_names and not last.class_names:
        return images.without_labels("the set that it is appended to has none")
    return images


def _check_locations(listing: Listing, out: Store, masks: Store | None) -> None:
    data = listing.data.store
    if out == data and listing.takes_file is not None:
        raise InputError(f"--out is the data folder itself, {out.url}: choose another")
    if _has_images_of(listing, out):
        raise InputError(
            f"--out {out.url} lies inside of the data, {data.url}: choose a place beside it"
        )
    if masks is not None and (
        (listing.takes_file and masks == data) or _has_images_of(listing, masks)
    ):
        inner = f"{masks.url.rstrip('/')}/"
        raise InputError(
            f"the masks lie inside of the data, {inner}: they would be taken for images; "
            "move them beside it"
        )


def _has_images_of(listing: Listing, place: Store) -> bool:
    """Whether images in a place inside of the data would be listed."""
    root, takes = f"{listing.data.store.url.rstrip('/')}/", listing.takes_file
    if takes is None or not place.url.startswith(root):
        return False
    inside = place.url.removeprefix(root).rstrip("/")
    return bool(inside) and any(takes(f"{inside}/0{suffix}") for suffix in IMAGE_SUFFIXES)


def discard_begun(store: Store) -> None:
    """Remove everything that a first run has written."""
    store.sweep()
    discard_shards(store, 0)
    for name in (plan_file(0), rows_file(0), versions_file(0)):
        store.remove(name)


def discard_shards(store: Store, first: int) -> None:
    """Remove the shards from number `first` on, with their manifests and rejected lists."""
    least = shard_name(first)
    for folder in (SHARDS_FOLDER, MANIFEST_FOLDER, REJECTED_FOLDER):
        for name in list(store.names(folder)):
            base = name.rpartition("/")[2]
            if base.startswith(SHARD_STEM) and base.partition(".")[0] >= least:
                store.remove(name)
