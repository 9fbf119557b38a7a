"""Run functions at once, each in a process of its own, and pass on what they tell."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from pipeline.core.errors import Stopped
from pipeline.core.progress import Standing, listening, say, show
from training.engine.stopping import asked_to_stop

Answer = TypeVar("Answer")
SECONDS_BETWEEN_STANDINGS = 0.5


def side_by_side(tasks: Mapping[str, Callable[[], Answer]]) -> dict[str, Answer]:
    """Run all tasks at once and wait for them.

    SIGTERM and the first Ctrl-C are passed on to the tasks as SIGTERM.

    Args:
        tasks: by name; functions that can be pickled. Their lines are said with the name in front.

    Returns:
        What each function returned.

    Raises:
        Stopped: a stop was asked for, and a task ended without an answer.
        Exception: whatever the first task to fail raised; the others are ended.
    """
    context, was_set = get_context("spawn"), os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # the children's; read when they load their libraries
    started = {}
    for name, task in tasks.items():
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(task, there), daemon=True)
        process.start()
        there.close()
        started[name] = process, here
    if was_set is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = was_set
    asked: list[bool] = []

    def stop() -> None:
        asked.append(True)
        for process, _ in started.values():
            process.terminate()

    try:
        with asked_to_stop(stop):
            answers: dict[str, Answer] = _heard({name: pipe for name, (_, pipe) in started.items()})
    finally:
        for process, _ in started.values():
            process.terminate()
        for process, _ in started.values():
            process.join()
    missing = [name for name in tasks if name not in answers]
    if missing and asked:
        raise Stopped("stopped: the same command continues")
    if missing:
        codes = ", ".join(f"{name} (exit code {started[name][0].exitcode})" for name in missing)
        raise RuntimeError(f"ended without an answer: {codes}")
    return answers


def _heard(pipes: Mapping[str, Connection]) -> dict[str, Answer]:
    """Pass on what the tasks tell until all pipes are closed; returns the answers."""
    names = {pipe: name for name, pipe in pipes.items()}
    answers: dict[str, Answer] = {}
    latest: dict[str, Standing] = {}
    while names:
        for pipe in wait(list(names)):
            assert isinstance(pipe, Connection)
            name = names[pipe]
            try:
                kind, told = pipe.recv()
            except EOFError:
                del names[pipe]
                continue
            if kind == "line":
                say(f"{name}: {told}")
            elif kind == "standing":
                latest[name] = told
                show(_together({n: s for n, s in latest.items() if s.work == told.work}))
            elif kind == "failed":
                raise told
            else:
                answers[name] = told
    return answers


def _together(standings: Mapping[str, Standing]) -> Standing:
    """How far the same work of several tasks is."""
    notes = [f"{name} {one.note}" for name, one in standings.items() if one.note]
    first = next(iter(standings.values()))
    return Standing(
        work=f"{first.work} ({', '.join(standings)})",
        done=sum(one.done for one in standings.values()),
        total=sum(one.total for one in standings.values()),
        unit=first.unit,
        given=sum(one.given for one in standings.values()),
        note="; ".join(notes),
    )


class _Teller:
    """Sends what a task tells to the process that waits for it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._sent = pipe, float("-inf")

    def say(self, line: str) -> None:
        self._pipe.send(("line", line))

    def show(self, standing: Standing) -> None:
        now = time.monotonic()
        if now - self._sent >= SECONDS_BETWEEN_STANDINGS:
            self._sent = now
            self._pipe.send(("standing", standing))


def _run(task: Callable[[], Answer], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent sends SIGTERM
    with listening(_Teller(pipe)):
        try:
            pipe.send(("answer", task()))
        except Exception as error:
            pipe.send(("failed", error))
    pipe.close()
