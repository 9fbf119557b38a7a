"""What a run was asked to do, and where it comes from."""

import json
from dataclasses import replace
from pathlib import Path

from training.config.pretrain import PretrainConfig
from training.core.checkpoint import CheckpointStore
from training.core.fields import dotted
from training.data.damage import DAMAGED_FILE
from training.record.run_record import SEEN
from training.report.page import Block, Folded, Section, Table, Words, missing
from training.report.run.state import RunState
from training.report.wording import count, figure

DIGEST = 16
MOST_DAMAGED = 100
PLACES = ("shards", "out", "data_digest", "knn.val_shards", "knn.train_shards")


def settings_section(run: RunState) -> Section:
    """Settings that differ from the defaults, and all of them."""
    recorded = dotted(run.recorded)
    plain = PretrainConfig(shards=Path("shards"), out=Path("out"))
    if run.config is not None:
        plain = replace(plain, method=type(run.config.method)())
    defaults = dotted(plain.to_json())
    changed = {
        name: value
        for name, value in recorded.items()
        if name not in PLACES and (name not in defaults or defaults[name] != value)
    }
    blocks: list[Block] = []
    if changed:
        rows = [(name, _text(value), _text(defaults.get(name))) for name, value in changed.items()]
        blocks.append(
            Table(
                caption="Settings that differ from the defaults",
                head=("setting", "this run", "default"),
                rows=rows,
            )
        )
    else:
        blocks.append(missing("All settings are the defaults."))
    everything = Table(
        caption="As recorded in config.json",
        head=("setting", "value"),
        rows=[(name, _text(value)) for name, value in recorded.items()],
    )
    blocks.append(Folded(summary=f"All {len(recorded)} settings", blocks=(everything,)))
    return Section(anchor="settings", title="Settings", blocks=blocks)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(figure(item) for item in value) if len(value) == 2 else json.dumps(value)
    return "none" if value is None else figure(value)


def provenance_section(run: RunState) -> Section:
    """Digests and places: from which data to which weights."""
    rows = [
        ("run", str(run.folder)),
        ("shards", str(run.recorded["shards"])),
        ("digest of the shards' plan", str(run.recorded.get("data_digest", "not recorded"))),
        ("seed", str(run.recorded.get("seed", "not recorded"))),
    ]
    seen = [entry[SEEN] for entry in run.entries if SEEN in entry]
    if seen:
        rows.append(("digest of the samples trained on", str(seen[-1])))
    if run.backbone is not None:
        done = run.backbone.provenance
        rows += [
            ("backbone", f"{run.backbone.architecture}, {run.backbone.feature_dim} features"),
            ("backbone of", f"step {done.get('step')}, epoch {figure(done.get('epochs'))}"),
            ("sha256 of the weights", run.backbone.weights_sha256),
        ]
    steps = CheckpointStore(run.folder / "checkpoints", keep=1).steps()
    rows.append(("checkpoints at steps", ", ".join(map(str, steps)) or "none"))
    if run.info is not None:
        saliency = ", ".join(f"{name} {figure(value)}" for name, value in run.info.saliency.items())
        rows.append(("saliency", saliency))
        rows += [(f"shards made with {name}", text) for name, text in run.info.versions.items()]
    table = Table(caption="Where the run comes from", head=("what", "value"), rows=rows)
    blocks: list[Block] = [table]
    if run.shards_problem:
        blocks.insert(0, Words(text=f"The shards: {run.shards_problem}", tone="warning"))
    return Section(anchor="provenance", title="Provenance", blocks=[*blocks, *_damaged(run)])


def _damaged(run: RunState) -> list[Block]:
    path = run.folder / DAMAGED_FILE
    if not path.is_file():
        return [missing("No damaged sample was met.")]
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    shown = Table(
        caption=f"{min(len(lines), MOST_DAMAGED)} of {count(len(lines))}",
        head=("as recorded",),
        rows=[(line,) for line in lines[:MOST_DAMAGED]],
    )
    said = count(len(lines), "damaged sample was", "damaged samples were")
    return [
        Words(text=f"{said} met and skipped.", tone="warning"),
        Folded(summary="Damaged samples", blocks=(shown,)),
    ]
