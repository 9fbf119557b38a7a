"""The ablation on tiny runs: run once, recorded, resumed, paused, reported from records alone."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs.pretrain_options import read_command_line
from pipeline.core.errors import InputError
from tests.benchmarks.ablation import AblationConfig, planned, run
from tests.benchmarks.ablation_records import append_record, packed, read_records, unpacked
from tests.benchmarks.ablation_report import difference, draw_frontier, report
from tests.benchmarks.ablation_run import AblationContext, execute
from tests.benchmarks.ablation_table import command_line, find_table
from tests.benchmarks.quiet import hold, is_held
from training.evaluate.intervals import seeds_difference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


def arguments(work: Path) -> list[str]:
    records = str(work / "records.jsonl")
    return ["debug", "--work", str(work), "--records", records, "--seeds", "0"]


def test_runs_are_run_once_and_recorded(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(work), work / "quiet") == 0
    first = capfd.readouterr().out
    assert first.count("started  ") == 2
    assert first.count("\nfinished ") == 2
    records = read_records(work / "records.jsonl")
    assert [record["arm"] for record in records] == ["none", "object both"]
    for record in records:
        assert record["options"] == find_table("debug").options(record["arm"])
        assert record["num_images"] == {"usual": 16, "changed": 16}
        for column, found in record["right"].items():
            for measure, bits in found.items():
                share = float(unpacked(bits, 16).mean())
                assert record["figures"][column][measure] == pytest.approx(100 * share)
        # debug: 2 epochs of 2 steps of 16 images; SimCLR's two views of 32 x 32 px, and one more
        # and two hard negatives.
        views = 2 if record["arm"] == "none" else 5
        assert (record["steps"], record["pixels"]) == (4, 4 * 16 * views * 32 * 32)
        assert record["cpu_seconds"] > 0
    assert not list(work.glob("runs/*/checkpoints"))
    assert len(list(work.glob("runs/*/backbone"))) == 2

    before = (work / "records.jsonl").read_bytes()
    assert run(arguments(work), work / "quiet") == 0
    again = capfd.readouterr().out
    assert "2 runs, 2 of them finished" in again
    assert "started" not in again
    assert (work / "records.jsonl").read_bytes() == before

    assert run([*arguments(work), "--report", "--against", "object both"]) == 0
    shown = capfd.readouterr().out
    assert "| none | 0 |" in shown
    assert "Points above 'object both'" in shown


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after one step and gone on with: the same predictions as in one go."""
    command = ["debug", "--work", str(tmp_path / "cut"), "--arms", "object both", "--seeds", "0"]
    quiet = tmp_path / "quiet"
    (one,) = planned(parsed([*command, "--records", str(tmp_path / "cut.jsonl")]), quiet)

    def stops(context: AblationContext) -> bool:
        return True

    with monkeypatch.context() as patched:
        patched.setattr(AblationContext, "stop_requested", stops)
        assert execute(one) != 0
    assert not one.finished
    assert list(one.folder.glob("checkpoints/*"))
    assert execute(one) == 0
    command[2] = str(tmp_path / "whole")
    (other,) = planned(parsed([*command, "--records", str(tmp_path / "whole.jsonl")]), quiet)
    assert execute(other) == 0
    (cut,), (whole,) = read_records(one.records), read_records(other.records)
    assert cut["right"] == whole["right"]


def parsed(words: list[str]) -> AblationConfig:
    return AblationConfig(
        table=words[0],
        work=Path(words[2]),
        arms=(words[4],),
        seeds=(int(words[6]),),
        records=Path(words[8]),
    )


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the lock `tmp_path/quiet`."""
    code = (
        "import sys, time; from pathlib import Path; from tests.benchmarks.quiet import hold\n"
        f"hold(Path({str(tmp_path / 'quiet')!r})); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_waits_while_the_lock_is_held(
    tmp_path: Path, holder: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = tmp_path / "quiet"
    assert is_held(quiet)
    (one,) = planned(parsed(["debug", "", str(tmp_path), "", "none", "", "0", "", "r"]), quiet)
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        holder.kill()
        holder.wait()

    context = AblationContext(one)
    with monkeypatch.context() as patched:
        patched.setattr("tests.benchmarks.ablation_run.sleep", nap)
        assert not context.stop_requested()
        assert len(naps) == 1
        assert not context.stop_requested()
        assert len(naps) == 1
    context.close()
    assert not is_held(quiet)


def test_the_lock_is_seen(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "quiet")
    hold(tmp_path / "quiet")
    started = time.monotonic()
    assert is_held(tmp_path / "quiet")  # also by this very process
    assert time.monotonic() - started < 5


def test_records_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record = {"table": "t", "arm": "a", "seed": 0, "options": {"x": (1, 2)}}
    append_record(path, record)
    with path.open("ab") as file:
        file.write(b'{"torn')
    append_record(path, record | {"seed": 1})
    append_record(path, record | {"seed": 1, "later": True})
    assert [r["seed"] for r in read_records(path)] == [0, 1]
    assert "later" not in read_records(path)[1]


def test_bits_go_there_and_back() -> None:
    right = np.random.default_rng(0).random(2001) < 0.5
    np.testing.assert_array_equal(unpacked(packed(right), 2001), right)


def test_difference_of_several_seeds_is_their_t_interval() -> None:
    """Differences of 10, 20, 30 points: mean 20, standard error 5.774, t(2) 4.303."""
    arm = [np.arange(10) < n for n in (6, 7, 8)]
    other = [np.arange(10) < 5] * 3
    expected = (20.0, 20 - 4.30265 * 5.77350, 20 + 4.30265 * 5.77350)
    assert difference(arm, other, same_images=False) == pytest.approx(expected, abs=1e-3)


def test_difference_of_seeds_on_the_same_images() -> None:
    """`seeds_difference` has tests of its own: here, that it is asked."""
    rng = np.random.default_rng(0)
    arm, other = (list(rng.random((3, 200)) < share) for share in (0.6, 0.5))
    found = seeds_difference(np.stack(other), np.stack(arm))
    expected = (found.points, found.low, found.high)
    assert difference(arm, other, same_images=True) == expected


def test_difference_of_one_seed_is_paired() -> None:
    """Of 1,000 images 60 gained and 20 lost: 4 +- 1.96 * 0.886 points."""
    numbers = np.arange(1000)
    arm, other = numbers < 560, (numbers < 500) | (numbers >= 980)
    points, low, high = difference([arm], [other], same_images=True)
    assert points == pytest.approx(4.0)
    # The spread of the gains is sqrt(.08 - .04**2) / sqrt(1000); 10,000 resamples are good to 0.05.
    assert (low, high) == pytest.approx((4 - 1.96 * 0.8854, 4 + 1.96 * 0.8854), abs=0.12)


def made(arm: str, seed: int, right: int, **options: int) -> dict[str, object]:
    bits = packed(np.arange(100) < right)
    columns = ("usual", "changed")
    return {
        "table": "t",
        "arm": arm,
        "seed": seed,
        "options": options,
        "figures": {c: {"knn": float(right), "probe": float(right)} for c in columns},
        "right": {c: {"knn": bits, "probe": bits} for c in columns},
        "num_images": dict.fromkeys(columns, 100),
        "images": dict.fromkeys(columns, str(seed)),
        "pixels": 2_000_000_000,
        "cpu_seconds": 90.0,
    }


def test_the_report(tmp_path: Path) -> None:
    records = [made("none", seed, 50 + seed) for seed in range(3)]
    records += [made("own", 0, 10, old=1)]  # the arm's options have changed since
    records += [made("own", seed, 56 + 2 * seed) for seed in range(2)]
    records += [made("own", 100, 70), made("none", 100, 60)]
    reported, choosing = report(records, "none").split("### Seeds for choosing settings")
    assert "| none | 0, 1, 2 | 51.0 ± 1.0 |" in reported
    assert "| own | 0, 1 | 57.0 ± 1.4 |" in reported
    # Differences 6 and 7: mean 6.5, standard error 0.5, t(1) 12.706.
    assert "| own | 0, 1 | +6.5 (+0.1 to +12.9) |" in reported
    assert "| 2.00 | 1.5 |" in reported
    assert "| own | 100 | +10.0 (" in choosing
    draw_frontier(records, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 0


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown table 'x'.*backgrounds.*photographs"):
        run(["x", "--work", str(tmp_path)])
    with pytest.raises(InputError, match=r"unknown arm 'x': debug has none, object both"):
        run(["debug", "--work", str(tmp_path), "--arms", "x"])
    with pytest.raises(InputError, match="name a table"):
        run(["--work", str(tmp_path)])
    with pytest.raises(InputError, match="SALMASK_SHARED"):
        no_photographs(tmp_path)


def no_photographs(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SALMASK_SHARED", str(tmp_path / "nowhere"))
        find_table("photographs").prepare(tmp_path, 0)


@pytest.mark.parametrize("name", ["backgrounds", "photographs"])
def test_every_arm_is_a_configuration(name: str, tmp_path: Path) -> None:
    table = find_table(name)
    assert table.baseline in table.arms
    configs = []
    for arm in table.arms:
        places = {"shards": str(tmp_path), "out": str(tmp_path)}
        _, _, config = read_command_line(command_line(table.options(arm) | places))
        configs.append(json.dumps(config.to_json()))
    assert len(set(configs)) == len(configs)
