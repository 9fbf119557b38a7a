"""Before the work: list the images, plan the shards, and compare with what is there already."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pipeline.core.errors import InputError
from pipeline.precompute.config import EXTERNAL, PrecomputeConfig, absolute, open_location
from pipeline.precompute.history import History, new_images, read_history, shards_of
from pipeline.precompute.mask_files import check_masks, match_masks
from pipeline.precompute.plan import Plan, PlanInfo, make_plan
from pipeline.precompute.plan_files import (
    check_plan,
    discard_shards,
    parameter_difference,
    write_plan,
)
from pipeline.shardset.manifest import ShardInfo
from pipeline.sources.listing import Collected, DataStore, Listing, collect
from pipeline.sources.registry import open_source
from pipeline.storage.base import Store
from pipeline.storage.local_store import LocalStore

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be made, and what is there already; its size does not depend on the images.

    Attributes:
        data: how to read the images.
        plans: of the shards that this run makes or checks, by generation.
        class_names: of the set afterwards.
        plan_digest: of the set afterwards.
        kept: shards of the set that this run does not look at.
        num_kept_rejected: images rejected from the shards in `kept`.
        num_known: listed images that the set has already, for an append.
        num_ignored: files that are not images.
        unlabelled_because: why there are no labels; empty if there are, or none were wanted.
        began_before: whether an earlier run has begun the same.
    """

    data: DataStore
    plans: dict[int, PlanInfo]
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


def begin(config: PrecomputeConfig, out: Store, saliency: dict[str, object]) -> Work:
    """List the images, plan the shards, and write the plan or find it written.

    Raises:
        InputError: the data or the output cannot be used, masks are missing, or another plan was
            begun there; nothing has been written then.
    """
    if isinstance(out, LocalStore) and out.root.exists() and not out.root.is_dir():
        raise InputError(f"--out {out.url} is a file: a folder is wanted")
    masks = open_location(config.masks) if str(config.masks) else None
    listing = open_source(absolute(config.data), config.source_options)
    _check_locations(listing, out, masks)
    parameters = config.parameters(saliency)
    history = read_history(out)
    if config.append:
        _check_append(out, history, parameters)
    images = collect(listing, history.finished[-1].class_names if config.append else ())
    data = listing.data
    if config.saliency == EXTERNAL:
        data = replace(data, masks=masks or data.masks)
        images = match_masks(images, masks) if masks else images
        if config.missing_masks == "error":
            check_masks(images, masks.url if masks else f"the column {config.mask_column}")
    plan_of = partial(
        make_plan,
        parameters=parameters,
        shard_images=config.shard_images,
        shard_bytes=config.shard_mib * MIB,
        keeps_order=listing.keeps_order,
    )
    if config.append:
        return _begin_append(plan_of, out, data, images, history)
    plan = plan_of(images)
    began_before = _write(out, plan, 0)
    appended = history.finished[1:]
    kept, num_rejected = shards_of(out, appended)
    last = (plan.info, *appended)[-1]
    return Work(
        data=data,
        plans={0: plan.info},
        class_names=last.class_names,
        plan_digest=last.digest,
        kept=kept,
        num_kept_rejected=num_rejected,
        num_ignored=images.num_ignored,
        unlabelled_because=images.unlabelled_because,
        began_before=began_before,
    )


def _write(out: Store, plan: Plan, generation: int) -> bool:
    """Write the plan unless it is there; return whether it was."""
    if check_plan(out, plan, generation):
        out.sweep()
        return True
    if generation:
        discard_shards(out, plan.info.first_shard)  # of an append that was given up
    write_plan(out, plan, generation)
    return False


def _check_append(out: Store, history: History, parameters: dict[str, object]) -> None:
    """An append needs a finished set that was made with the same settings."""
    if history.info is None:
        raise InputError(
            f"--append adds to a finished set, and there is none at {out.url}: run this without "
            "--append first, until it finishes"
        )
    named = parameter_difference(history.finished[0].parameters, parameters)
    if named:
        raise InputError(
            f"{out.url} was made with other settings ({named}): what is appended has to be made "
            "with the same"
        )


def _begin_append(
    plan_of: Callable[..., Plan],
    out: Store,
    data: DataStore,
    images: Collected,
    history: History,
) -> Work:
    info, last = history.info, history.finished[-1]
    assert info is not None, "checked before anything was listed"
    images = _labelled_as(images, last, out)
    new, covered = new_images(out, history, images)
    work = Work(
        data=data,
        plans={generation: history.finished[generation] for generation in covered},
        class_names=last.class_names,
        plan_digest=last.digest,
        num_known=images.rows.num_rows - new.rows.num_rows,
        num_ignored=images.num_ignored,
        unlabelled_because=images.unlabelled_because,
        began_before=True,
    )
    if not new.rows.num_rows:  # repair the shards whose images are all listed
        out.sweep()
        others = [p for generation, p in enumerate(history.finished) if generation not in covered]
        kept, num_rejected = shards_of(out, others)
        return replace(work, kept=kept, num_kept_rejected=num_rejected)
    generation = len(history.finished)
    first_shard = last.first_shard + last.num_shards
    plan = plan_of(new, first_shard=first_shard, follows=info.plan_digest)
    began_before = _write(out, plan, generation)
    return replace(
        work,
        plans={generation: plan.info},
        class_names=plan.info.class_names,
        plan_digest=plan.info.digest,
        kept=info.shards,
        num_kept_rejected=info.num_rejected,
        began_before=began_before,
    )


def _labelled_as(images: Collected, last: PlanInfo, out: Store) -> Collected:
    """All samples of a set have labels, or none: drop labels if the set has none."""
    if last.class_names and not images.class_names:
        why = f": {images.unlabelled_because}" if images.unlabelled_because else ""
        raise InputError(f"{out.url} has class labels, and what is appended has none{why}")
    if images.class_names and not last.class_names:
        return images.without_labels("the set that it is appended to has none")
    return images


def _check_locations(listing: Listing, out: Store, masks: Store | None) -> None:
    data = listing.data.store
    if out == data and listing.takes_all:
        raise InputError(f"--out is the data folder itself, {out.url}: choose another")
    if masks is not None and listing.takes_all:
        inner, outer = (f"{store.url.rstrip('/')}/" for store in (masks, data))
        if inner.startswith(outer):
            raise InputError(
                f"the masks lie inside of the data, {inner}: they would be taken for images; "
                "move them beside it"
            )
