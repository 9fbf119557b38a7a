"""Score an exported backbone on labelled shards: weighted kNN and the fast linear probe."""

import json
from dataclasses import replace

import cv2
import torch

from jobs.cli import from_root, main, parse
from training.evaluation import PROTOCOLS
from training.export_score import EvaluateConfig, score_export


def run() -> None:
    """Parse the command line, evaluate, print a table and one line of JSON."""
    config = parse(EvaluateConfig, "jobs/evaluate.py")
    config = replace(
        config,
        backbone=from_root(config.backbone),
        train_shards=from_root(config.train_shards),
        val_shards=from_root(config.val_shards),
    )
    cv2.setNumThreads(1)  # the decoding threads are the parallelism
    score = score_export(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    settings, figures = score.settings, score.figures
    print(
        f"{settings['architecture']}, weights {str(settings['weights'])[:12]}, "
        f"{settings['view_size']} px, {figures['num_train']} training and "
        f"{figures['num_val']} validation images"
    )
    details = {
        "knn": f"k {config.k}, temperature {config.temperature:g}",
        "linear": f"L2 {figures.get('linear_strength', 0):.2g}",
    }
    for name in (name for name in PROTOCOLS if name in figures):
        print(f"  {name:8} top-1 {figures[name]:6.2f} %  ({details[name]})")
    print(json.dumps(settings | figures))


if __name__ == "__main__":
    main(run)
