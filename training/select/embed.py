"""Embed images into a file; list near-duplicates, and images that are spread over all."""

import csv
import io
from dataclasses import asdict
from typing import Any

from pipeline.core.errors import check, write_error
from pipeline.core.progress import numbered
from pipeline.shardset.pictures import Pictures
from pipeline.storage.atomic import write_atomically
from training.core.context import LocalContext
from training.evaluate.embedding import embed, near_duplicates, write_embedding
from training.evaluate.encoders import load_encoders
from training.select.embed_config import EmbedConfig
from training.select.greedy import farthest_points

NUM_SHOWN = 10
"""Pairs of near-duplicates that are shown; the file has all."""


def embed_into_file(config: EmbedConfig, pictures: Pictures) -> tuple[dict[str, Any], list[str]]:
    """Write the features, and the lists that are asked for; the paths are absolute.

    Returns:
        The results for programs, and lines for people.

    Raises:
        InputError: no images or no backbone; more images to choose than there are; a file cannot
            be written.
    """
    (encoder,) = load_encoders(
        [str(config.checkpoint)],
        encoder=config.encoder,
        seed=0,
        device=LocalContext().device,
        batch_size=config.batch_size,
    )
    found, lists = embed(encoder, pictures), dict[str, str]()
    names, dim = found.names, found.vectors_MD.shape[1]
    values: dict[str, Any] = {"out": config.out, "images": len(names), "features": dim}
    lines: list[str] = []
    if config.duplicates is not None:
        pairs = near_duplicates(found.unit_MD, config.duplicates)
        table = io.StringIO()
        rows = [(names[i], names[j], f"{cosine:.6f}") for i, j, cosine in pairs]
        csv.writer(table, lineterminator="\n").writerows([("first", "second", "cosine"), *rows])
        lists[".duplicates.csv"] = table.getvalue()
        values["duplicates"] = len(pairs)
        lines += [f"{cosine}  {first}  {second}" for first, second, cosine in rows[:NUM_SHOWN]]
        lines.append(f"{numbered(len(pairs), 'pair')} of cosine {config.duplicates:g} or more")
    if config.diverse is not None:
        too_many = f"--diverse {config.diverse} of {numbered(len(names), 'image')}"
        check(config.diverse <= len(names), f"{too_many}: choose at most as many as there are")
        chosen = farthest_points(found.unit_MD.numpy(), config.diverse)
        lists[".diverse.txt"] = "".join(f"{names[number]}\n" for number in chosen)
        values["diverse"] = len(chosen)
    about = {"weights_sha256": encoder.digest, "preprocessing": asdict(encoder.info.preprocessing)}
    write_embedding(config.out, found, about, config.dtype)
    for suffix, text in lists.items():
        path = config.out.with_suffix(suffix)
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise write_error(str(path), error) from error
        lines.append(f"{suffix.split('.')[1]:10} {path}")
    end = f"results    {numbered(len(names), 'image')}, {dim} features each: {config.out}"
    return values, [*lines, end]
