"""A masker and a method that are registered at run time train, are shown and resume."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.runs import StopsAfter, numbers, run, small_run, weights
from tests.shard_sets import write_shard_set
from training.config.derived import stream_config
from training.config.settings import KnnConfig
from training.core.schedules import Moment
from training.data.stream import BatchDataset
from training.encoders.encoder import Backbone
from training.methods.interface import Method, ProjectedBackbone, StepResult
from training.methods.registry import METHODS
from training.methods.settings import MethodConfig
from training.randomness.draws import Stream, uniforms, view_number
from training.record.contact_sheet import FIRST_COLUMNS, GAP, HEADER, TILE, displayed
from training.views.fills import FILLS
from training.views.inputs import EncoderInputs, build_inputs
from training.views.maskers import MASKERS, Masker, MaskerInputs
from training.views.settings import MaskConfig, ViewConfig
from training.views.spec import Crop, ViewSettings, ViewSpec


class CornerDraws(NamedTuple):
    corner_B: Tensor
    """int64, 0 to 3."""


@dataclass(frozen=True)
class CornerMasker(Masker):
    """Masks one quarter of each view, down to the pixel."""

    config: MaskConfig
    high_pass: bool

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> CornerDraws:
        uniform_B1 = uniforms(seeds_B, view_number(view), Stream.MASK_BOX, 1)
        return CornerDraws(torch.from_numpy((4 * uniform_B1[:, 0]).astype(np.int64)))

    def mask(self, draws: CornerDraws, inputs: MaskerInputs) -> Tensor:
        late_S = torch.arange(inputs.view_size) >= inputs.view_size // 2
        rows_BS = late_S == (draws.corner_B // 2 == 1)[:, None]
        columns_BS = late_S == (draws.corner_B % 2 == 1)[:, None]
        return (rows_BS[:, :, None] & columns_BS[:, None])[:, None]


@dataclass(frozen=True, kw_only=True)
class ToyConfig(MethodConfig):
    """Has its name in the test only: all named kinds of ``MethodConfig`` can be chosen."""


class Toy(Method):
    """Draws the query and a small view of its own crop together, masked alike by the strategy."""

    config_type = ToyConfig

    @classmethod
    def views(cls, config: ToyConfig, settings: ViewSettings) -> tuple[ViewSpec, ...]:
        query = settings.query()
        crop = Crop(name="small-0", cut=ViewConfig(size=16, grid=2))
        small = ViewSpec(name="small-0", crop=crop, masker=query.masker, fill=query.fill)
        return query, small

    def __init__(
        self, config: ToyConfig, backbone: Backbone, *, batch_size: int, seed: int
    ) -> None:
        nn.Module.__init__(self)
        self.encoder = ProjectedBackbone(backbone, config)

    def step(
        self, inputs: EncoderInputs, *, encode: Callable[[Tensor], Tensor], moment: Moment
    ) -> StepResult:
        assert list(inputs.views) == ["query", "small-0"]
        one_BD, other_BD = (encode(view) for view in inputs.views.values())
        loss = 1 - (one_BD * other_BD).sum(dim=1).mean()
        return StepResult(loss, {"similarity": 1 - loss.detach()}, {})


def test_a_masker_and_a_method_of_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MASKERS, "corner", CornerMasker)
    monkeypatch.setitem(METHODS, "toy", Toy)
    monkeypatch.setattr(ToyConfig, "name", "toy", raising=False)
    info = write_shard_set(tmp_path / "shards", num_images=20)
    masks = MaskConfig(strategy="corner")
    whole, halved = (
        small_run(
            tmp_path / "shards",
            tmp_path / name,
            epochs=1,
            method=ToyConfig(batch_norm_group=4),
            masks=masks,
            knn=KnnConfig(),
        )
        for name in ("whole", "halved")
    )
    result = run(whole)
    assert result.finished
    assert result.step == 2
    assert 0 < result.values["loss"] < 2
    assert {"query_masked_foreground", "small_masked_background"} < result.values.keys()

    dataset = BatchDataset(whole.shards, info, stream_config(whole), rank=0, world_size=1)
    batch, bare = dataset[0], tuple(replace(view, masker=None) for view in dataset.config.views)
    unmasked = build_inputs(batch, bare, masks=masks, fill=FILLS["mean"]).views
    sheet = np.asarray(Image.open(whole.out / "contact_sheet.png"))[HEADER:]
    for column, name in enumerate(("query", "small-0"), start=len(FIRST_COLUMNS)):
        size, corners = unmasked[name].shape[-1], batch.masks[name].corner_B.tolist()
        assert len(set(corners)) > 1
        centres = ((np.arange(size) + 0.5) * TILE / size).astype(int)
        for row, (expected_CSS, corner) in enumerate(zip(unmasked[name], corners, strict=True)):
            half, (down, right) = size // 2, divmod(corner, 2)
            mean_C11 = expected_CSS.mean(dim=(1, 2), keepdim=True)
            expected_CSS[:, down * half :, right * half :][:, :half, :half] = mean_C11
            tile = sheet[row * (TILE + GAP) :, GAP + column * (TILE + GAP) :]
            off = tile[centres][:, centres] - displayed(expected_CSS, high_pass=False).astype(int)
            assert np.abs(off).max() <= 1  # rounding

    assert run(halved, StopsAfter(1)).step == 1
    after_one = weights(halved.out)
    assert run(halved).finished
    assert numbers(halved.out) == numbers(whole.out)
    ours, theirs = weights(halved.out), weights(whole.out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    trained = [name for name in theirs if name.endswith("weight")]
    assert not any(torch.equal(after_one[name], theirs[name]) for name in trained)
