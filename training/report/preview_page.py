"""A page of saliency and masked views of images that nothing was trained on yet."""

from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import check, write_error
from pipeline.saliency.worth import worth_of
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.atomic import write_atomically
from training.config.recipes import find_recipe
from training.report.run_masks import drawn_masks
from training.report.shard_set_page import read_rows, rejected_images
from training.report.state import RunState
from training.report.write import render


def write_preview(path: Path, shards: Path, data: str, recipe: str) -> None:
    """Draw the views of the first step of a run on all of the shards, and write the page.

    Raises:
        InputError: fewer than two images, an unknown recipe, or the file cannot be written.
    """
    info = load_dataset_info(shards)
    check(info.num_images > 1, f"{data} has one image that can be used: a preview wants two")
    config = find_recipe(recipe)(shards, shards / "run")
    config = replace(config, batch_size=info.num_images, epochs=1)
    run = RunState(config.out, config.to_json(), [], config, info, None, 1.0, [])
    page = {
        "run": run,
        "recipe": recipe,
        "drawn": drawn_masks(run, info.num_images),
        "rejected": rejected_images(shards, info),
        "worth": worth_of(read_rows(shards, info)["separability"].to_pylist()),
    }
    try:
        write_atomically(path, render("preview.html", Path(data), page).encode())
    except OSError as error:
        raise write_error(f"the page {path}", error) from error
