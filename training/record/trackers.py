"""Records elsewhere, besides metrics.jsonl and TensorBoard: MLflow and Weights & Biases.

They are told in a thread of its own, and one that fails in mid-run is left with a warning: training
neither waits nor ends for them.
"""

import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import InputError
from pipeline.storage.atomic import write_atomically
from training.core.fields import dotted

TRACKED_FILE = "tracked.json"
"""The runs' names over there, so that a resumed run goes on in them."""
EXPERIMENT = "salmask"
SQLITE = "sqlite:///"
CLOSE_SECONDS = 60.0
MLFLOW_BATCH = 100
"""Parameters that MLflow takes at once."""


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Where else a run is recorded.

    Attributes:
        mlflow: tracking URI, sqlite:////absolute/path/mlflow.db or http://host:5000 (extra
            mlflow); none: not there.
        wandb: project of Weights & Biases (extra wandb); with WANDB_MODE=offline nothing leaves
            the machine; none: not there.
        name: of the run there; none: that of its folder.
    """

    mlflow: str | None = None
    wandb: str | None = None
    name: str | None = None


class Tracker(Protocol):
    """A place that a run is recorded at. Any method may raise anything."""

    run_id: str

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Numbers after a global step."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG that shows something at a global step."""

    def close(self, finished: bool) -> None:
        """The run has come to its end, or is broken off."""


class MLflowTracker:
    """A run of the experiment ``salmask`` on an MLflow server or in its database."""

    def __init__(self, uri: str, name: str, run_id: str | None, config: dict[str, Any]) -> None:
        import mlflow

        self._client = mlflow.MlflowClient(uri)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = (
            self._client.create_experiment(EXPERIMENT, artifact_location=_artifacts(uri))
            if experiment is None
            else experiment.experiment_id
        )
        self.run_id = str(self._client.create_run(number, run_name=name).info.run_id)
        params = [mlflow.entities.Param(key, str(value)) for key, value in dotted(config).items()]
        for start in range(0, len(params), MLFLOW_BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + MLFLOW_BATCH])

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in values.items():
            self._client.log_metric(self.run_id, name, value, step=step, synchronous=True)

    def picture(self, step: int, name: str, path: Path) -> None:
        """See ``Tracker``. An artifact."""
        self._client.log_artifact(self.run_id, str(path), f"{name}/step-{step:08d}")

    def close(self, finished: bool) -> None:
        """See ``Tracker``."""
        self._client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


def _artifacts(uri: str) -> str | None:
    """Where pictures go: beside a database (MLflow would take the folder of the process)."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlflow-artifacts").as_uri()


class WandbTracker:
    """A run of a Weights & Biases project, or a folder to be synchronised later."""

    def __init__(
        self, project: str, name: str, run_id: str | None, config: dict[str, Any], folder: Path
    ) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=project,
            name=name,
            id=run_id,
            resume="allow",
            config=config,
            dir=str(folder),
            settings=wandb.Settings(silent=True),
        )
        self.run_id = str(self._run.id)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """See ``Tracker``."""
        self._run.log(values, step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """See ``Tracker``."""
        self._run.log({name: self._image(str(path))}, step=step)

    def close(self, finished: bool) -> None:
        """See ``Tracker``."""
        self._run.finish(exit_code=0 if finished else 1)


def check_trackers(config: TrackConfig) -> None:
    """Raises ``InputError`` where what is asked for is not installed, or names no one place."""
    uri = config.mlflow or ""
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        raise InputError(
            f"track.mlflow {uri} is relative to whatever folder a worker starts in: "
            f"give the absolute path, {SQLITE}/absolute/path.db"
        )
    for package, wanted in (("mlflow", config.mlflow), ("wandb", config.wandb)):
        if wanted is not None and find_spec(package) is None:
            raise InputError(
                f"track.{package} needs the package {package}: pip install 'salmask[{package}]'"
            )


class Trackers:
    """All trackers of a run, told in order by a thread.

    Args:
        config: which ones.
        folder: of the run; remembers the runs' names over there.
        settings: the run's, as JSON values.

    Raises:
        InputError: one cannot be reached at the beginning of a run. A run that is resumed goes on
            without it (``lost``).
    """

    def __init__(self, config: TrackConfig, folder: Path, settings: dict[str, Any]) -> None:
        path = folder / TRACKED_FILE
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        name = config.name or folder.name
        begin: dict[str, Callable[[str | None], Tracker]] = {}
        if (uri := config.mlflow) is not None:
            begin["mlflow"] = lambda run: MLflowTracker(uri, name, run, settings)
        if (project := config.wandb) is not None:
            begin["wandb"] = lambda run: WandbTracker(project, name, run, settings, folder)
        self._lost: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._trackers: dict[str, Tracker] = {}
        for kind, start in begin.items():
            try:
                self._trackers[kind] = start(known.get(kind))
            except Exception as error:  # whatever the library raises of a place it cannot reach
                if kind not in known:
                    raise InputError(f"track.{kind} cannot be used: {error}") from error
                self._lost.put(_words(kind, error))
        runs = {kind: tracker.run_id for kind, tracker in self._trackers.items()}
        if runs:
            write_atomically(path, json.dumps(known | runs, indent=2).encode() + b"\n")
        self._to_tell: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell_all, daemon=True)
        if self._trackers:
            self._teller.start()

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Numbers after a global step."""
        self._tell(lambda tracker: tracker.numbers(step, values))

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG that shows something at a global step; it stays where it is."""
        self._tell(lambda tracker: tracker.picture(step, name, path))

    def lost(self) -> list[str]:
        """What has been given up since the last call, and why: a line each."""
        lines = []
        while not self._lost.empty():
            lines.append(self._lost.get())
        return lines

    def close(self, finished: bool) -> None:
        """Tells the end, and waits for a bounded time until all is told."""
        self._tell(lambda tracker: tracker.close(finished))
        if self._teller.is_alive():
            self._to_tell.put(None)
            self._teller.join(CLOSE_SECONDS)

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        if self._teller.is_alive():
            self._to_tell.put(what)

    def _tell_all(self) -> None:
        while (what := self._to_tell.get()) is not None:
            for kind, tracker in list(self._trackers.items()):
                try:
                    what(tracker)
                except Exception as error:  # of a library or a network: the run goes on without
                    del self._trackers[kind]
                    self._lost.put(_words(kind, error))


def _words(kind: str, error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), type(error).__name__)
    return f"{kind} is no longer told of this run: {first_line}"
