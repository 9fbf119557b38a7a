"""Runs in a bucket, against an S3 server: whole at every moment, resumed from an empty disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig, with_place
from training.config.settings import CheckpointConfig, KnnConfig


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    root = tmp_path_factory.mktemp("runs")
    write_shard_set(root / "shards", num_images=24, shard_images=12)
    checkpoint = CheckpointConfig(every_epochs=0, every_steps=2, keep=2)
    config = small_run(root / "shards", root / "local", knn=KnnConfig(), checkpoint=checkpoint)
    config = replace(config, log_every_steps=1)
    assert run(config).step == 6
    return config


def test_it_runs(local: PretrainConfig, bucket: Bucket) -> None:
    config = with_place(local, bucket.url("runs/first"))
    assert run(config, StopsAfter(3)).step == 3
    print(sorted(bucket.contents("runs/first")))
    assert run(config).step == 6
    there = bucket.contents("runs/first")
    print(sorted(there))
    print(there["config.json"].decode()[:300])
    assert run(config).ran is False
