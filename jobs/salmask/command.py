"""The command `salmask`: each job by its name."""

import importlib
import os
import sys
from typing import NoReturn

COMMANDS = {
    "preview": ("IMAGES", "a page of saliency and masks of 24 images, before anything is made"),
    "precompute": ("IMAGES SHARDS", "images to shards with saliency maps"),
    "pretrain": ("SHARDS OUT", "pretrain a backbone on shards"),
    "report": ("FOLDER", "a page about shards, a run, a sweep or a stream"),
    "evaluate": ("RUN TRAIN VAL", "what backbones are worth on labelled images"),
    "compare": ("FOLDERS...", "differences between evaluations, with intervals"),
    "embed": ("RUN IMAGES FILE", "features of images, near-duplicates, a diverse choice"),
    "export": ("RUN OUT", "the backbone for other libraries, with a model card"),
    "sweep": ("SHARDS OUT", "many pretrainings, and the best one's settings"),
    "stream": ("", "pretrain on sets that arrive one after the other"),
    "choose": ("POOL TARGET OUT", "which images of a pool are like those of a target"),
    "explain": ("RUN SHARDS OUT", "a saliency source out of a run"),
    "score": ("IMAGES MASKS", "how good saliency maps are"),
    "cluster": ("", "a local Ray cluster: up, down, wait"),
}
"""What stands first, without the names of its options, and what the job does."""


def command() -> NoReturn:
    """The command, in a process of its own."""
    from jobs.ending import end_at_interrupt

    end_at_interrupt()
    main(is_process=True)


def main(*, is_process: bool = False) -> NoReturn:
    """Run the job that the command line names, as `python jobs/NAME.py` does."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--version"):
        from importlib.metadata import version  # slow to import

        print(f"salmask {version('salmask')}" if name == "--version" else table())
        sys.exit(0)
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean salmask {near[0]}?" if near else "see salmask --help"
        print(f"error: there is no salmask {name}: {meant}", file=sys.stderr)
        sys.exit(2)
    # Processes that this one starts would look in the working folder for `training` first.
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.argv = [f"salmask {name}", *words]
    from jobs import cli  # reads command lines with tyro, which the table goes without

    cli.main(importlib.import_module(f"jobs.{name}").run, is_process=is_process)


def table() -> str:
    """The help: a line for each job."""
    width = max(len(f"{name} {first}") for name, (first, _) in COMMANDS.items())
    lines = [f"  {f'{name} {first}':{width}}  {what}" for name, (first, what) in COMMANDS.items()]
    return "\n".join(["usage: salmask JOB ...   (salmask JOB --help has its options)", *lines])


if __name__ == "__main__":
    command()
