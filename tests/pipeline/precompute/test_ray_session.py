"""What Ray prints and a person need not see."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError

from pipeline.core.errors import InputError, RayUnavailable
from pipeline.precompute.ray_session import ray_running, without_lines


def test_lines_with_the_note_are_dropped_and_no_others(capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(ZeroDivisionError), without_lines(b"harmless") as dropped:
        os.write(2, b"before\nit is harmless, really\nafter\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'of a child')"], check=True)
        raise ZeroDivisionError
    os.write(2, b", and harmless again")
    assert capfd.readouterr().err == "before\nafter\nof a child, and harmless again"
    assert dropped == [b"it is harmless, really\n"]


def test_a_process_that_outlives_the_block_holds_nobody_up(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.precompute.ray_session.SETTLE_SECONDS", 0.1)
    program = "import os; os.read(0, 1); os.write(2, b'harmless\\nlate\\n')"
    with without_lines(b"harmless"):
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.poll() is None
    child.communicate(b"x")
    deadline, seen = time.monotonic() + 30, ""
    while not seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        seen = capfd.readouterr().err
    assert seen == "late\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_gone_is_said_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    refused = pytest.raises(InputError, match=f"RAY_ADDRESS {address} .*refused.*cluster-up")
    with refused, ray_running():
        pytest.fail("there is no such cluster")


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("", Exception("The current node timed out during startup.\nmore"), "Ray did not start"),
        ("", RuntimeError(""), r"Ray did not start \(RuntimeError\): .*--local"),
        ("auto", ConnectionError("no"), r"cluster at RAY_ADDRESS auto cannot be used \(no\)"),
        ("auto", AuthenticationError("InvalidToken"), r"wants a token, .*cluster/env"),
        ("auto", OSError("No such thing. Do one of:\n1. this"), r"be used \(No such thing\)$"),
    ],
)
def test_a_ray_that_cannot_be_used_is_one_line(
    address: str, error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", fails)
    with pytest.raises(RayUnavailable, match=words), ray_running():
        pytest.fail("there is no Ray")


def test_a_cluster_that_refuses_a_token_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuses(**_: object) -> None:
        os.write(2, b"gcs_client.cc:210: Unauthenticated: InvalidAuthToken: missing\n" * 3)
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuses)
    with pytest.raises(RayUnavailable, match="auto wants a token"), ray_running():
        pytest.fail("there is no Ray")
    assert capfd.readouterr().err == ""


def test_another_package_in_the_working_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    message = f"{tmp_path}/training has the name of a package of salmask"
    with pytest.raises(InputError, match=message), ray_running():
        pytest.fail("workers would import that package")


@pytest.mark.parametrize("letters", ["Tök", "two words", "\x00\x80"])
def test_a_token_that_ray_would_abort_at_is_refused(
    letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(letters)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    message = f"the token of RAY_AUTH_TOKEN_PATH {tmp_path}/token is not one"
    with pytest.raises(RayUnavailable, match=message), ray_running():
        pytest.fail("there is no such token")
