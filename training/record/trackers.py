"""Records on MLflow and Weights & Biases, besides metrics.jsonl and TensorBoard.

A thread of its own sends them, and one that fails is given up with a warning: training neither
waits nor ends for them.
"""

import json
import queue
import socket
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

from pipeline.core.errors import InputError, check
from pipeline.storage.atomic import write_atomically
from training.config.fields import dotted
from training.config.settings import TrackConfig

TRACKED_FILE = "tracked.json"
"""Identities of the runs on the trackers, so that a resumed run continues them."""
EXPERIMENT = "salmask"
SQLITE = "sqlite:///"
PORTS = {"http": 80, "https": 443}
REACH_SECONDS = 10.0
CLOSE_SECONDS = 60.0
MLFLOW_BATCH = 100
"""Parameters that MLflow takes at once."""


class _Tracker(Protocol):
    """A run on a tracker, which may be resumed if it has not finished. A method may raise."""

    run_id: str

    def numbers(self, step: int, values: dict[str, float]) -> None: ...
    def picture(self, step: int, name: str, path: Path) -> None: ...
    def close(self, finished: bool) -> None: ...


_Task = Callable[[_Tracker], None]


class _MLflow:
    """A run of the experiment ``salmask`` on an MLflow server or in its database."""

    def __init__(
        self, uri: str, run_id: str | None, *, name: str, config: dict[str, Any], folder: Path
    ) -> None:
        reach(uri)
        import mlflow

        self._client = mlflow.MlflowClient(uri)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            # Pictures stand beside a database; MLflow's default is the working directory.
            beside = Path(uri.removeprefix(SQLITE)).parent / "mlflow-artifacts"
            place = beside.as_uri() if uri.startswith(SQLITE) else None
            number = self._client.create_experiment(EXPERIMENT, artifact_location=place)
        else:
            number = experiment.experiment_id
        self.run_id = str(self._client.create_run(number, run_name=name).info.run_id)
        params = [mlflow.entities.Param(key, str(value)) for key, value in dotted(config).items()]
        for start in range(0, len(params), MLFLOW_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + MLFLOW_BATCH])

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self.run_id, name, value, step=step, synchronous=True)

    def picture(self, step: int, name: str, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path), f"{name}/step-{step:08d}")

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


class _Wandb:
    """A run of a Weights & Biases project, or a folder to be synchronised later."""

    def __init__(
        self, project: str, run_id: str | None, *, name: str, config: dict[str, Any], folder: Path
    ) -> None:
        import wandb

        self._image = wandb.Image
        place: dict[str, Any] = {"project": project, "name": name, "id": run_id, "dir": str(folder)}
        quiet = wandb.Settings(silent=True)
        self._run = wandb.init(**place, resume="allow", config=config, settings=quiet)
        self.run_id = str(self._run.id)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._image(str(path))}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


KINDS: dict[str, Callable[..., _Tracker]] = {"mlflow": _MLflow, "wandb": _Wandb}
"""By the name of the setting of `TrackConfig` that says where."""


def reach(uri: str) -> None:
    """Raises ``ConnectionError`` where no server listens; MLflow would try again for minutes.

    Behind a proxy nothing is tried.
    """
    place = urlsplit(uri)
    if place.scheme not in PORTS or place.scheme in getproxies() or not place.hostname:
        return
    host, port = place.hostname, place.port or PORTS[place.scheme]
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"no server answers at {host}:{port} ({error})") from error


def check_trackers(config: TrackConfig, *, is_new: bool = True) -> None:
    """Raises ``InputError`` for what is not installed, or a relative database path.

    Also for a server of a new run that does not answer; a run that is resumed goes on without it.
    """
    uri = config.mlflow or ""
    check(
        not uri.startswith(SQLITE) or uri.startswith(f"{SQLITE}/"),
        f"track.mlflow {uri} is relative to whatever folder a worker starts in: give the absolute "
        f"path, {SQLITE}/absolute/path.db",
    )
    for package in KINDS:
        missing = f"track.{package} needs the package {package}: pip install 'salmask[{package}]'"
        check(getattr(config, package) is None or find_spec(package) is not None, missing)
    try:
        reach(uri if is_new else "")
    except (ConnectionError, ValueError) as error:
        raise InputError(f"track.mlflow cannot be used: {error}") from error


class Trackers:
    """All trackers of a run; a thread passes on what they are told, in order.

    Args:
        config: which ones.
        folder: of the run; keeps the identities of the runs on the trackers.
        settings: the run's, as JSON values.

    Raises:
        InputError: one cannot be reached at the beginning of a run. A run that is resumed goes on
            without it (``lost``).
    """

    def __init__(self, config: TrackConfig, folder: Path, settings: dict[str, Any]) -> None:
        path = folder / TRACKED_FILE
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        run = {"name": config.name or folder.name, "config": settings, "folder": folder}
        self._lost: list[str] = []
        self._trackers: dict[str, _Tracker] = {}
        for kind, start in KINDS.items():
            if (place := getattr(config, kind)) is None:
                continue
            try:
                self._trackers[kind] = start(place, known.get(kind), **run)
            except Exception as error:  # whatever the library raises of a place it cannot reach
                if kind not in known:
                    raise InputError(f"track.{kind} cannot be used: {error}") from error
                self._give_up(kind, error)
        runs = {kind: tracker.run_id for kind, tracker in self._trackers.items()}
        if runs:
            write_atomically(path, json.dumps(known | runs, indent=2).encode() + b"\n")
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        if runs:
            self._sender.start()

    def tell(self, what: _Task) -> None:
        """Has the thread call a function of each tracker, in order."""
        if self._sender.is_alive():
            self._tasks.put(what)

    def lost(self) -> list[str]:
        """A line for each tracker that was given up since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def close(self, finished: bool) -> None:
        """Reports the end, and waits for a limited time until everything is sent."""
        self.tell(lambda tracker: tracker.close(finished))
        self._tasks.put(None)
        if self._sender.is_alive():
            self._sender.join(CLOSE_SECONDS)

    def _send_all(self) -> None:
        while (task := self._tasks.get()) is not None:
            for kind, tracker in list(self._trackers.items()):
                try:
                    task(tracker)
                except Exception as error:  # of a library or a network: the run goes on without
                    self._give_up(kind, error)

    def _give_up(self, kind: str, error: Exception) -> None:
        self._trackers.pop(kind, None)
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        self._lost.append(f"{kind} is no longer told of this run: {first_line}")
