"""The command line of sweeps: what they ask for, and that what cannot be writes nothing."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import sweep as job
from jobs.sweep_options import read_options
from pipeline.core.errors import InputError, Stopped
from tests.job_here import job_here
from tests.made_sweeps import write_sets
from training.methods.settings import HardNegativeConfig
from training.sweep.config import Sweep, trial_config
from training.sweep.results import Trial
from training.sweep.space import Domain


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("shards"))


def places(shards: Path, out: Path) -> list[str]:
    given = {"shards": shards / "train", "knn.val-shards": shards / "val", "out": out}
    return ["--recipe", "debug", *(str(w) for k, v in given.items() for w in (f"--{k}", v))]


def sweep_of(arguments: str) -> Sweep:
    words = f"--shards s --out o --knn.val-shards v {arguments}"
    return read_options(words.split(), "").sweep()


def test_a_space_from_the_command_line_over_a_base() -> None:
    grids = "--grid masks.query_ratio=0.05:0.25,0.4 --grid optim.lr=0.1,0.2"
    sweep = sweep_of(f"--recipe debug {grids} --epochs 3 --method.rho 2")
    assert list(sweep.space) == ["masks.query_ratio", "optim.lr"]
    assert (sweep.search, sweep.num_trials, sweep.scheduler) == ("grid", 4, "asha")
    assert isinstance(sweep.base.method, HardNegativeConfig)
    assert (sweep.base.epochs, sweep.base.method.rho, sweep.base.views.size) == (3, 2.0, 32)
    assert sweep.base.knn.every_epochs == 1
    assert sweep.folder == Path.cwd() / "o"


def test_a_named_space_can_be_changed() -> None:
    changed = "--grid masks.query_ratio=0.1,0.2 --uniform optim.lr=0.01..0.1 --search random"
    sweep = sweep_of(f"--space mask_ratio {changed} --num-trials 5 --knn.every-epochs 2")
    assert sweep.space["masks.query_ratio"] == Domain("grid", (0.1, 0.2))
    assert sweep.space["optim.lr"] == Domain("uniform", (0.01, 0.1))
    assert (sweep.name, sweep.num_trials, sweep.base.knn.every_epochs) == ("mask_ratio", 5, 2)
    scaling = sweep_of("--space data_scaling")
    assert (scaling.scheduler, scaling.base.heldout.shards) == ("none", Path.cwd() / "v")
    assert sweep_of("--space data_scaling --scheduler asha").scheduler == "asha"


def test_a_sweep_over_strategies_is_accepted(shards: Path, tmp_path: Path) -> None:
    """Of the command line, and of the check of every trial on the shards, without Ray."""
    from training.sweep.preflight import check_trials

    grids = ["--grid", "masks.strategy=learned,soft_high,exchange", "--masks.learned.lr", "0.01"]
    sweep = read_options([*places(shards, tmp_path / "out"), *grids], "").sweep()
    check_trials(sweep, 1)
    configs = [trial_config(sweep.base, n, point) for n, point in enumerate(sweep.points())]
    assert [c.masks.strategy for c in configs] == ["learned", "soft_high", "exchange"]
    assert {c.masks.learned.lr for c in configs} == {0.01}
    byol = [*places(shards, tmp_path / "out"), "--grid", "masks.strategy=none,learned"]
    sweep = read_options([*byol, "--method", "byol"], "").sweep()
    with pytest.raises(InputError, match=r"trial 1 .*byol offers no adversary_loss"):
        check_trials(sweep, 1)


NO_CHECKS = "--grid epochs=1,2 --knn.val-shards None"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing to sweep"),
        ("--space everything", "unknown space 'everything': choose one of mask_ratio, mask_full"),
        ("--grid masks.ratio=0.1,0.2", "no field 'masks.ratio': did you mean masks.query_"),
        ("--grid masks.query=0.1", "no field 'masks.query': did you mean masks.query_ratio"),
        ("--grid masks.query_ratio=0.1,1.2", "masks.query_ratio=1.2: .*wanted 0 <= low"),
        ("--grid epochs", "--grid epochs.* has no values"),
        ("--grid epochs=1,1", "has a value twice"),
        ("--grid epochs=1 --uniform epochs=1..2", "epochs is given twice"),
        ("--grid epochs=0,2", "epochs=0: epochs 0 must be 1 or more"),
        ("--grid out=a,b", "out cannot be swept"),
        (
            "--grid views.size=32,48 --grid views.grid=4,5",
            r"views\.size=32, views\.grid=5: views\.size",
        ),
        ("--choice fill=mean,noise", "fill=noise"),
        ("--uniform optim.lr=0.1", "is no interval: wanted optim.lr=LOW..HIGH"),
        ("--uniform optim.lr=2..1", "LOW below HIGH"),
        ("--uniform optim.lr=0..inf", "LOW below HIGH"),
        ("--log-uniform optim.lr=0..1", "--log-uniform .* needs numbers above 0"),
        ("--uniform method.key_momentum=0.5..1.5", "key_momentum=1.5"),
        ("--uniform optim.lr=0.1..0.2 --search grid", "an interval, of which there is no grid"),
        (NO_CHECKS, "objective knn: give --knn.val-shards"),
        (f"{NO_CHECKS} --objective heldout_loss", "heldout_loss: give --heldout.shards"),
        ("--grid epochs=1,2 --num-trials 3", "the grid has 2 points, and --num-trials says 3"),
        ("--grid seed=1,2 --epochs 4 --grace-epochs 9", "--grace-epochs 9 is more than the 4 ep"),
        ("--grid epochs=1,2 --concurrent 0", "--concurrent 0 must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep_of(f"--method moco_v2 {arguments}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--concurrent 4000 --cpus-per-worker 999",
            r"3 x 1 x 999 \(trials x workers x cores\) = CPUs: 2997; the cluster has",
        ),
        ("--num-workers 4000", "not even one trial fits"),
        ("--batch-size 64", "holds 48 images, fewer than one global batch of 64"),
        ("--knn.val-shards /none", "no .* at /none"),
        ("--seed 1", r"holds another sweep \(.*space\.epochs\.kind: None -> "),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out, written = tmp_path / "out", []
    if "another" in message:
        written = [out, out / "sweep.json"]
        out.mkdir()
        written[1].write_text(json.dumps({"version": 1, "space": {}, "seed": 0}))
    words = [*places(shards, out), "--grid", "epochs=1,2,3", *arguments.split()]
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py", *words])
    with pytest.raises(InputError, match=message):
        job.run()
    assert sorted(tmp_path.rglob("*")) == written


@pytest.mark.parametrize("num_done", [0, 1, 3])
def test_what_a_sweep_concludes(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_done: int,
) -> None:
    """Of a sweep of three trials, of which some had ended before it was stopped."""
    from pipeline.precompute import ray_session
    from training.ray import nodes
    from training.sweep import tune

    node = SimpleNamespace(resources={"CPU": 2.0})
    monkeypatch.setattr(ray_session, "ray_running", nullcontext)
    monkeypatch.setattr(nodes, "live_nodes", lambda: [node])
    trials = [
        Trial(n, {"epochs": n + 1}, "finished" if n < num_done else "running", values={"knn": 5.0})
        for n in range(3)
    ]
    monkeypatch.setattr(tune, "run_trials", lambda *_, **__: trials)
    monkeypatch.setattr(tune, "read_trials", lambda _: trials)
    out = tmp_path / "out"
    words = [*places(shards, out), "--grid", "epochs=1,2,3", "--json"]
    done = job_here(job.run, monkeypatch, capsys)(*words)
    assert done.code == (0 if num_done == 3 else Stopped.exit_code), done.err
    told = json.loads(done.out)
    assert (told["trials_left"], told["results"]) == (3 - num_done, str(out / "results.parquet"))
    assert told["best_config"] == (str(out / "best.json") if num_done else None)
    assert (out / "best.json").exists() == bool(num_done)
    assert f"{3 - num_done} of 3 trials left, 2 at a time, each 1 x 1 CPU" in done.err
    assert ("the same command goes on" in done.err) == (num_done < 3)
    assert ("best       " in done.err) == (num_done == 3)
