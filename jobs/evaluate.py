"""Score an exported backbone on labelled shards: weighted kNN and the fast linear probe."""

import json

import cv2
import torch
import tyro

from jobs.cli import main
from training.evaluation import PROTOCOLS
from training.export_score import EvaluateConfig, score_export


def run() -> None:
    """Parse the command line, evaluate, print a table and one line of JSON."""
    config = tyro.cli(EvaluateConfig, prog="jobs/evaluate.py")
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
