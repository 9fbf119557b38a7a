"""Before the work: list, plan, and compare with what an earlier run has left."""

from dataclasses import dataclass, replace

from pipeline.core.errors import InputError
from pipeline.precompute.config import EXTERNAL, PrecomputeConfig, absolute, open_place
from pipeline.precompute.history import History, compare, read_history, shards_of
from pipeline.precompute.mask_files import check_masks, match_masks
from pipeline.precompute.plan import make_plan
from pipeline.precompute.plan_files import (
    WrittenPlan,
    check_plan,
    discard_shards,
    parameter_difference,
    plan_file,
    read_plan,
    write_plan,
)
from pipeline.shardset.manifest import ShardInfo
from pipeline.sources.collected import Collected, collect
from pipeline.sources.listing import DataPlace, Listing
from pipeline.sources.registry import open_source
from pipeline.storage.local_store import LocalStore
from pipeline.storage.storage import Store

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be made, and what is there already; nothing in it grows with the images.

    Attributes:
        place: how the images are read.
        plans: those whose shards are to be there afterwards, by their generation.
        class_names: of the set afterwards.
        plan_digest: of the set afterwards.
        kept: shards of the set that this run does not look at.
        num_kept_rejected: images rejected from these.
        num_known: images that are in the set already, where this is an append.
        num_ignored: files that are no images.
        unlabelled_because: why there are no labels; empty where there are, or none were wanted.
        began_before: whether an earlier run had begun the same.
    """

    place: DataPlace
    plans: dict[int, WrittenPlan]
    class_names: tuple[str, ...]
    plan_digest: str
    kept: tuple[ShardInfo, ...] = ()
    num_kept_rejected: int = 0
    num_known: int = 0
    num_ignored: int
    unlabelled_because: str
    began_before: bool

    @property
    def num_images(self) -> int:
        """Images in the shards that this run looks at."""
        return sum(plan.num_images for plan in self.plans.values())

    @property
    def num_shards(self) -> int:
        """Shards that this run looks at."""
        return sum(plan.num_shards for plan in self.plans.values())


def begin(config: PrecomputeConfig, out: Store, saliency: dict[str, object]) -> Work:
    """List the images, plan the shards, and write the plan or find it written.

    Args:
        config: what a person said.
        out: the shard set.
        saliency: name and parameters of the saliency source.

    Raises:
        InputError: the data or the output cannot be used, masks are missing, or another plan was
            begun there; nothing has been written then.
    """
    if isinstance(out, LocalStore) and out.root.exists() and not out.root.is_dir():
        raise InputError(f"--out {out.url} is a file: a folder is wanted")
    masks = open_place(config.masks) if str(config.masks) else None
    listing = open_source(absolute(config.data), config.source_options)
    _check_places(listing, out, masks)
    parameters = config.parameters(saliency)
    history = read_history(out)
    if config.append:
        _check_append(config, out, history, parameters)
    images = collect(listing, history.plans[-1].class_names if config.append else ())
    if config.saliency == EXTERNAL:
        listing.place = replace(listing.place, masks=masks or listing.place.masks)
        images = match_masks(images, masks) if masks else images
        if config.missing_masks == "error":
            check_masks(images, masks.url if masks else f"the column {config.mask_column}")
    if config.append:
        return _begin_append(config, out, listing, images, history, parameters)
    return _begin_set(config, out, listing, images, history, parameters)


def _begin_set(
    config: PrecomputeConfig,
    out: Store,
    listing: Listing,
    images: Collected,
    history: History,
    parameters: dict[str, object],
) -> Work:
    plan = make_plan(
        images,
        parameters,
        shard_images=config.shard_images,
        shard_bytes=config.shard_mib * MIB,
        keeps_order=listing.keeps_order,
    )
    began_before = check_plan(out, plan)
    if began_before:
        out.sweep()
    else:
        write_plan(out, plan)
    kept: list[ShardInfo] = []
    num_rejected = 0
    for appended in history.plans[1 : history.num_finished]:
        shards, rejected = shards_of(out, appended)
        kept += shards
        num_rejected += rejected
    last = history.plans[history.num_finished - 1] if kept else plan
    return Work(
        place=listing.place,
        plans={0: _written(out, 0)},
        class_names=tuple(last.class_names),
        plan_digest=last.digest,
        kept=tuple(kept),
        num_kept_rejected=num_rejected,
        num_ignored=listing.num_ignored,
        unlabelled_because=images.unlabelled_because,
        began_before=began_before,
    )


def _check_append(
    config: PrecomputeConfig, out: Store, history: History, parameters: dict[str, object]
) -> None:
    """An append needs a finished set that was made with the same settings."""
    if history.info is None:
        raise InputError(
            f"--append adds to a finished set, and there is none at {out.url}: run this without "
            "--append first, until it finishes"
        )
    named = parameter_difference(history.plans[0].parameters, parameters)
    if named:
        raise InputError(
            f"{out.url} was made with other settings ({named}): what is appended has to be made "
            "with the same"
        )


def _begin_append(
    config: PrecomputeConfig,
    out: Store,
    listing: Listing,
    images: Collected,
    history: History,
    parameters: dict[str, object],
) -> Work:
    info = history.info
    assert info is not None, "checked before anything was listed"
    last = history.plans[history.num_finished - 1]
    images = _labelled_as(images, last, out)
    compared = compare(out, history, images)
    work = Work(
        place=listing.place,
        plans={},
        class_names=last.class_names,
        plan_digest=last.digest,
        kept=info.shards,
        num_kept_rejected=info.num_rejected,
        num_known=compared.num_known,
        num_ignored=listing.num_ignored,
        unlabelled_because=images.unlabelled_because,
        began_before=True,
    )
    if not compared.new.rows.num_rows:
        return _mending(work, out, history, compared.covered)
    generation = history.num_finished
    plan = make_plan(
        compared.new,
        parameters,
        shard_images=config.shard_images,
        shard_bytes=config.shard_mib * MIB,
        keeps_order=listing.keeps_order,
        first_shard=last.first_shard + last.num_shards,
        follows=info.plan_digest,
    )
    began_before = check_plan(out, plan, generation)
    if began_before:
        out.sweep()
    else:
        discard_shards(out, plan.first_shard)  # of an append that was given up
        write_plan(out, plan, generation)
    return replace(
        work,
        plans={generation: _written(out, generation)},
        class_names=plan.class_names,
        plan_digest=plan.digest,
        began_before=began_before,
    )


def _mending(work: Work, out: Store, history: History, covered: tuple[int, ...]) -> Work:
    """Nothing is new: look after the shards whose images are all listed."""
    out.sweep()
    kept: list[ShardInfo] = []
    num_rejected = 0
    for generation in range(history.num_finished):
        if generation not in covered:
            shards, rejected = shards_of(out, history.plans[generation])
            kept += shards
            num_rejected += rejected
    plans = {generation: history.plans[generation] for generation in covered}
    return replace(work, plans=plans, kept=tuple(kept), num_kept_rejected=num_rejected)


def _labelled_as(images: Collected, last: WrittenPlan, out: Store) -> Collected:
    """Labels where the set has them, and nowhere else: all samples of a set have one, or none."""
    if last.class_names and not images.class_names:
        why = f": {images.unlabelled_because}" if images.unlabelled_because else ""
        raise InputError(f"{out.url} has class labels, and what is appended has none{why}")
    if images.class_names and not last.class_names:
        return images.without_labels("the set that it is appended to has none")
    return images


def _written(out: Store, generation: int) -> WrittenPlan:
    written = read_plan(out, generation)
    if written is None:
        raise InputError(
            f"{out.where(plan_file(generation))} has vanished: is another run at work?"
        )
    return written


def _check_places(listing: Listing, out: Store, masks: Store | None) -> None:
    data = listing.place.store
    if out == data and listing.takes_all:
        raise InputError(f"--out is the data folder itself, {out.url}: choose another")
    if masks is not None and listing.takes_all:
        inner, outer = (f"{store.url.rstrip('/')}/" for store in (masks, data))
        if inner.startswith(outer):
            raise InputError(
                f"the masks lie inside of the data, {inner}: they would be taken for images; "
                "move them beside it"
            )
