"""What fewer inner channels save: ResNet-18 at 224 px, one image at once, one thread, in turns."""

from pathlib import Path
from statistics import median

import numpy as np
import pytest

from tests.benchmarks.timing import machine
from tests.training.evaluate.cases import encoder_of, folders
from training.evaluate.channels import costs_of, importance, milliseconds, narrowed

BUDGETS, ROUNDS, AT_MOST = (0.75, 0.5, 0.35), 60, 0.85


@pytest.mark.benchmark
def test_half_a_network_is_faster(tmp_path: Path) -> None:
    whole, images = encoder_of(size=224), folders(tmp_path, 6, seed=0)
    costs = costs_of(whole)
    scores = importance(whole, images, costs.inner, 6)
    made = [narrowed(whole, images, costs, b, scores, num_images=6) for b in BUDGETS]
    times_RN = milliseconds([whole, *made], ROUNDS)
    print(f"\nResNet-18, 224 px, {ROUNDS} rounds: {machine('torch')}")
    for budget, own_R in zip((1.0, *BUDGETS), times_RN.T, strict=True):
        low, middle, high = np.quantile(own_R, [0.25, 0.5, 0.75])
        gmac = costs.of(costs.within(budget))["macs"] / 1e9
        share = median(own_R / times_RN[:, 0])
        print(
            f"  {budget:<5g} {gmac:.3f} GMAC {middle:6.1f} ms ({low:.1f} to {high:.1f}) {share:.2f}"
        )
    assert median(times_RN[:, 2] / times_RN[:, 0]) < AT_MOST
