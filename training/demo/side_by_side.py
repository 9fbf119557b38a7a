"""Run functions at once, each in a process of its own, and pass on what they say and show.

The processes are forked from one that has imported the training: each would take seconds for it.
"""

import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeVar

from pipeline.core.errors import Stopped
from pipeline.core.progress import Standing, listening, say, show
from training.engine.stopping import asked_to_stop

Answer = TypeVar("Answer")
THREADS = "OMP_NUM_THREADS"
IMPORTED = ("__main__", "training.engine.local", "training.evaluate.run")


def side_by_side(tasks: Mapping[str, Callable[[], Answer]]) -> dict[str, Answer]:
    """Run all tasks at once, with one thread each, and wait for them.

    SIGTERM and the first Ctrl-C are passed on to the tasks as SIGTERM.

    Args:
        tasks: by name; functions that can be pickled. Their lines are said with the name in front.

    Returns:
        What each function returned.

    Raises:
        Stopped: a stop was asked for, and a task ended without an answer.
        Exception: whatever the first task to fail raised; the others are ended.
    """
    context, before = get_context("forkserver"), os.environ.get(THREADS)
    context.set_forkserver_preload([*IMPORTED])  # takes effect before its first use only
    os.environ[THREADS] = "1"  # of libraries that read it when they are loaded
    processes: dict[str, ForkServerProcess] = {}
    pipes: dict[Connection, str] = {}
    for name, task in tasks.items():
        pipe, theirs = context.Pipe(duplex=False)
        pipes[pipe] = name
        processes[name] = context.Process(target=_run, args=(task, theirs), daemon=True)
        processes[name].start()
        theirs.close()
    del os.environ[THREADS]
    os.environ |= {} if before is None else {THREADS: before}
    asked: list[bool] = []

    def stop() -> None:
        asked.append(True)
        for process in processes.values():
            process.terminate()

    try:
        with asked_to_stop(stop):
            answers: dict[str, Answer] = _answers(pipes)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()
    missing = [name for name in tasks if name not in answers]
    if missing and asked:
        raise Stopped("stopped: the same command continues")
    if missing:
        codes = ", ".join(f"{name} (exit code {processes[name].exitcode})" for name in missing)
        raise RuntimeError(f"ended without an answer: {codes}")
    return answers


def _answers(pipes: dict[Connection, str]) -> dict[str, Any]:
    """Pass on what the tasks say and show until all pipes are closed; return the answers."""
    answers: dict[str, Any] = {}
    latest: dict[str, Standing] = {}
    while pipes:
        for pipe in wait(list(pipes)):
            assert isinstance(pipe, Connection)
            name = pipes[pipe]
            try:
                kind, content = pipe.recv()
            except EOFError:
                del pipes[pipe]
                continue
            if kind == "line":
                say(f"{name}: {content}")
            elif kind == "standing":
                latest[name] = content
                show(_together({n: s for n, s in latest.items() if s.work == content.work}))
            elif kind == "failed":
                raise content
            else:
                answers[name] = content
    return answers


def _together(standings: Mapping[str, Standing]) -> Standing:
    """How far the same work of several tasks is."""
    every = list(standings.values())
    return Standing(
        work=f"{every[0].work} ({', '.join(standings)})",
        done=sum(one.done for one in every),
        total=sum(one.total for one in every),
        unit=every[0].unit,
        given=sum(one.given for one in every),
        note="; ".join(f"{name} {one.note}" for name, one in standings.items() if one.note),
    )


class _Sender:
    """Sends what a task says and shows to the process that waits for it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, line: str) -> None:
        self._pipe.send(("line", line))

    def show(self, standing: Standing) -> None:
        self._pipe.send(("standing", standing))


def _run(task: Callable[[], Answer], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent sends SIGTERM
    os.environ[THREADS] = "1"  # the process that this is a fork of may be older than the call
    with listening(_Sender(pipe)):
        try:
            pipe.send(("answer", task()))
        except Exception as error:
            pipe.send(("failed", error))
    pipe.close()
