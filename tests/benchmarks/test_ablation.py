"""The ablation on tiny runs: run once, recorded, resumed, paused, reported from records alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.pretrain_options import read_command_line
from pipeline.core.errors import InputError
from tests.benchmarks.ablation import RECORDS, AblationConfig, planned, run
from tests.benchmarks.ablation_records import append_record, packed, read_records, unpacked
from tests.benchmarks.ablation_report import difference, report
from tests.benchmarks.ablation_run import AblationContext, Run, execute, recorded_elsewhere
from tests.benchmarks.ablation_table import command_line, find_table
from tests.benchmarks.quiet import hold, is_held
from training.evaluate.intervals import seeds_difference

ROOT = Path(__file__).resolve().parents[2]


def test_runs_are_run_once_and_recorded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, quiet = tmp_path / "records.jsonl", tmp_path / "quiet"
    words = ["debug", "--work", str(tmp_path), "--records", str(file), "--seeds", "0"]
    assert run(words, quiet) == 0
    first = capfd.readouterr().out
    assert first.count("started  ") == 2
    assert first.count("\nfinished ") == 2
    records = list(read_records(file).values())
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
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    assert len(list(tmp_path.glob("runs/*/backbone"))) == 2

    before = file.read_bytes()
    assert run(words, quiet) == 0
    again = capfd.readouterr().out
    assert "2 runs, 2 of them finished" in again
    assert "started" not in again
    assert file.read_bytes() == before
    frontier = tmp_path / "frontier.png"
    assert run([*words, "--report", "--against", "object both", "--plot", str(frontier)]) == 0
    assert np.asarray(Image.open(frontier)).std() > 0
    shown = capfd.readouterr().out
    assert "| none | 0 |" in shown
    assert "Points above 'object both'" in shown

    # Stopped after one step and gone on with: the same predictions as in one go.
    one = run_of(tmp_path / "cut", "object both")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AblationContext, "stop_requested", lambda _: True)
        assert execute(one) != 0
    assert not one.finished
    assert list(one.folder.glob("checkpoints/*"))
    assert execute(one) == 0
    (cut,) = read_records(one.records).values()
    assert cut["right"] == records[1]["right"]


def run_of(work: Path, arm: str, quiet: Path | None = None) -> Run:
    config = AblationConfig(
        table="debug", work=work, arms=(arm,), seeds=(0,), records=work / "records.jsonl"
    )
    (one,) = planned(config, quiet or work / "quiet")
    return one


def test_a_run_waits_while_the_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, until that has ended."""
    quiet, naps = tmp_path / "quiet", list[float]()
    assert not is_held(quiet)
    code = (
        "import time; from pathlib import Path; from tests.benchmarks.quiet import hold\n"
        f"hold(Path({str(quiet)!r})); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_held(quiet)

        def nap(seconds: float) -> None:
            naps.append(seconds)
            holder.kill()
            holder.wait()

        context = AblationContext(run_of(tmp_path, "none", quiet))
        monkeypatch.setattr("tests.benchmarks.ablation_run.sleep", nap)
        assert not context.stop_requested()
        assert not context.stop_requested()
        context.close()
    assert len(naps) == 1
    assert not is_held(quiet)
    hold(quiet)
    assert is_held(quiet), "also by this very process"


def test_what_another_table_has_trained_is_not_trained_again(tmp_path: Path) -> None:
    """Of the table whose pictures it shares: with the same options, seed and saliency."""
    maps, records = find_table("maps"), tmp_path / "maps.jsonl"
    for arm, same in (("none", "none"), ("object exchange", "boundary")):
        record = made(arm, 0, 50) | {"table": maps.data_of, "options": maps.options(same)}
        append_record(tmp_path / "backgrounds.jsonl", record)
    config = AblationConfig(table="maps", work=tmp_path, seeds=(0, 1), records=records)
    known = {
        (run.arm, run.seed): found["arm"]
        for run in planned(config, tmp_path / "quiet")
        if (found := recorded_elsewhere(run)) is not None
    }
    assert known == {("none", 0): "none", ("boundary", 0): "object exchange"}
    one = next(run for run in planned(config, tmp_path / "quiet") if run.arm == "boundary")
    assert execute(one) == 0
    assert one.finished
    (copy,) = read_records(records).values()
    listed = json.loads(json.dumps(record))  # tuples become lists
    assert copy == listed | {"table": "maps", "arm": "boundary"}


def test_records_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record = {"table": "t", "arm": "a", "seed": 0, "options": {"x": (1, 2)}}
    append_record(path, record)
    with path.open("ab") as file:
        file.write(b'{"torn')
    append_record(path, record | {"seed": 1})
    append_record(path, record | {"seed": 1, "later": True})
    found = list(read_records(path).values())
    assert [one["seed"] for one in found] == [0, 1]
    assert "later" not in found[1]
    right = np.random.default_rng(0).random(2001) < 0.5
    np.testing.assert_array_equal(unpacked(packed(right), 2001), right)


def test_differences_of_one_seed_of_several_and_on_the_same_images() -> None:
    numbers = np.arange(1000)
    # Of 1,000 images 60 gained and 20 lost: 4 +- 1.96 * 0.886 points. The spread of the gains is
    # sqrt(.08 - .04**2) / sqrt(1000); 10,000 resamples are good to 0.05.
    one, other = numbers < 560, (numbers < 500) | (numbers >= 980)
    points, low, high = difference([one], [other], same_images=True)
    assert points == pytest.approx(4.0)
    assert (low, high) == pytest.approx((4 - 1.96 * 0.8854, 4 + 1.96 * 0.8854), abs=0.12)
    # Differences of 10, 20, 30 points: mean 20, standard error 5.774, t(2) 4.303.
    arm, base = [np.arange(10) < n for n in (6, 7, 8)], [np.arange(10) < 5] * 3
    expected = (20.0, 20 - 4.30265 * 5.77350, 20 + 4.30265 * 5.77350)
    assert difference(arm, base, same_images=False) == pytest.approx(expected, abs=1e-3)
    found = seeds_difference(np.stack(base), np.stack(arm))
    assert difference(arm, base, same_images=True) == (found.points, found.low, found.high)


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


def test_the_report() -> None:
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


def test_unknown_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, message in (
        (["x"], r"unknown table 'x'.*backgrounds.*photographs"),
        (["debug", "--arms", "x"], r"unknown arm 'x': debug has none, object both"),
        ([], "name a table"),
    ):
        with pytest.raises(InputError, match=message):
            run([*words, "--work", str(tmp_path)])
    monkeypatch.setenv("SALMASK_SHARED", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="SALMASK_SHARED"):
        find_table("photographs").prepare(tmp_path, 0)


@pytest.mark.parametrize("name", ["backgrounds", "photographs"])
def test_every_arm_is_a_configuration_and_what_was_recorded_can_be_reported(
    name: str, tmp_path: Path
) -> None:
    table, places = find_table(name), {"shards": str(tmp_path), "out": str(tmp_path)}
    assert table.baseline in table.arms
    configs = [
        json.dumps(read_command_line(command_line(table.options(arm) | places))[2].to_json())
        + table.sources.get(arm, "")
        for arm in table.arms
    ]
    assert len(set(configs)) == len(configs)
    records = list(read_records(RECORDS / f"{name}.jsonl").values())
    assert {record["arm"] for record in records} <= table.arms.keys()
    assert f"| {records[0]['arm']} | " in report(records, table.baseline)
