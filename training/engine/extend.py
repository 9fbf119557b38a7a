"""Train an old run longer in a new folder (`extend`): its newest checkpoint is resumed there."""

import shutil

from pipeline.core.errors import check, write_error
from pipeline.core.faults import point
from pipeline.storage.storage import fetched
from training.config.file import check_same_settings
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import newest_checkpoint
from training.data.damage import DAMAGED_FILE
from training.engine.anchor import ANCHOR_FILE
from training.engine.start import checkpoints
from training.record.metrics import METRICS_FILE

KEPT = (METRICS_FILE, DAMAGED_FILE, ANCHOR_FILE, "contact_sheet.png")
"""Files of the old run that the new one goes on with; the checkpoint comes last."""


def check_extend(config: PretrainConfig, data_digest: str, total_steps: int) -> None:
    """Check the run that this one extends, unless this one has a checkpoint already.

    Raises:
        InputError: it has no checkpoint, other settings or images, or as many steps already.
    """
    run = config.extend
    if run is None or checkpoints(config).steps():
        return
    check(
        str(run) not in (str(config.out), config.bucket),
        f"extend {run} is the run's own --out: name another folder",
    )
    latest = newest_checkpoint(run)
    lost = f"extend {run} holds no checkpoint: name the folder of a run of jobs/pretrain.py"
    check(latest is not None, lost)
    check_same_settings(run, config, data_digest)
    assert latest is not None, "checked just now"
    done = int(latest.name.removeprefix("step-"))
    check(
        done < total_steps,
        f"extend {run} has trained {done} steps, and --epochs {config.epochs} are "
        f"{total_steps} in all: name more epochs",
    )


def begin_extension(config: PretrainConfig) -> None:
    """Copy what the new run goes on with into its folder; does nothing once that is done.

    Raises:
        InputError: it cannot be written.
    """
    run, store = config.extend, checkpoints(config)
    if run is None or store.steps():
        return
    latest, old = newest_checkpoint(run), fetched(run, *KEPT)
    assert latest is not None, "checked before"
    temporary = store.folder / f".{latest.name}.tmp"
    try:
        for name in KEPT:
            if (old / name).exists():
                shutil.copyfile(old / name, config.out / name)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(latest, temporary)
        point("rename", latest)
        temporary.replace(store.folder / latest.name)
    except OSError as error:
        raise write_error(f"{config.out}", error) from error
