"""Where a run's log goes beside its own directory: Weights & Biases, MLflow."""

import io
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gan_runner.storage.atomic_files import write_bytes

RUN_IDS = ".loggers.json"  # in a run directory: what a resumed run goes on as


class Logger(ABC):
    """What gets the values and pictures of one run as they come.

    The keyword arguments of a subclass are its keys in the config (`logger.NAME.KEY`). One that needs a package raises
    ValueError where that is not installed, and imports it when the run starts.
    """

    name: str
    """The name that the config has for it."""

    def start(self, directory: Path, hyperparameters: Mapping[str, Any], config: str, *, is_resumed: bool) -> None:
        """Begin to log the run in a directory, or go on with what was begun there.

        Raises ConnectionError where its server cannot be had.
        """
        path = directory / RUN_IDS
        known = json.loads(path.read_text()) if is_resumed and path.exists() else {}
        found = self.open(directory, title_of(directory), hyperparameters, config, known.get(self.name))
        write_bytes(path, json.dumps(known | {self.name: found}).encode())

    @abstractmethod
    def open(
        self, directory: Path, title: str, hyperparameters: Mapping[str, Any], config: str, run_id: str | None
    ) -> str:
        """Begin a run there, or go on with that of an id; its id. Raises ConnectionError."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a log point, tag -> value."""

    @abstractmethod
    def image(self, step: int, tag: str, png: bytes) -> None:
        """A picture, as encoded for its file."""

    @abstractmethod
    def end(self, error: type[BaseException] | None) -> None:
        """The run is over, by the error that ended it: SystemExit after an interruption, None where it is complete."""


class Wandb(Logger):
    """Weights & Biases: https://docs.wandb.ai.

    project, entity: where the run is shown. mode: online, offline (for `wandb sync`), or None: what WANDB_MODE says, or
        else online. folder: its files are in FOLDER/wandb. They are not in the run's directory, as there are links
        among them, which lead out of it.
    """

    name = "wandb"

    def __init__(self, *, project: str, entity: str | None, mode: Literal["online", "offline"] | None, folder: str):
        require("wandb")
        self.project, self.entity, self.mode, self.folder = project, entity, mode, folder

    def open(
        self, directory: Path, title: str, hyperparameters: Mapping[str, Any], config: str, run_id: str | None
    ) -> str:
        import wandb

        try:
            self.run = wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,
                name=title,
                dir=self.folder,
                id=run_id,
                resume="allow" if run_id else None,
                config=dict(hyperparameters),
                # Several runs of a sweep may be trained as one program.
                settings=wandb.Settings(silent=True, console="off", reinit="create_new"),
            )
        except wandb.errors.Error as error:
            raise ConnectionError(f"logger=wandb: {' '.join(str(error).split())}; logger.wandb.mode=offline") from error
        self.run.define_metric("*", step_metric="step")  # its own steps never go back, as those of a resumed run may
        return str(self.run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def image(self, step: int, tag: str, png: bytes) -> None:
        import wandb
        from PIL import Image

        self.run.log({"step": step, tag: wandb.Image(Image.open(io.BytesIO(png)))})

    def end(self, error: type[BaseException] | None) -> None:
        self.run.finish(exit_code=0 if error is None else 1)


class Mlflow(Logger):
    """MLflow: https://mlflow.org.

    uri: of the store, a file (sqlite:///PATH) or a server. artifacts: the folder for pictures, where this begins an
        experiment; None leaves it to the store. experiment: the name that runs are grouped under.
    """

    name = "mlflow"

    def __init__(self, *, uri: str, artifacts: str | None, experiment: str):
        require("mlflow")
        self.uri, self.artifacts, self.experiment = uri, artifacts, experiment

    def open(
        self, directory: Path, title: str, hyperparameters: Mapping[str, Any], config: str, run_id: str | None
    ) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every new store
        try:
            self.client = MlflowClient(self.uri)
            if run_id:
                self.run_id = run_id
                self.client.update_run(run_id, status="RUNNING")
                return run_id
            found = self.client.get_experiment_by_name(self.experiment)
            place = Path(self.artifacts).absolute().as_uri() if self.artifacts and "://" not in self.artifacts else None
            group = found.experiment_id if found else self.client.create_experiment(self.experiment, place)
            self.run_id = self.client.create_run(group, run_name=title).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in hyperparameters.items()]
            for start in range(0, len(params), 100):  # more it does not take at once
                self.client.log_batch(self.run_id, params=params[start : start + 100])
            self.client.log_text(self.run_id, config, "config.yaml")
        except MlflowException as error:
            raise ConnectionError(f"logger=mlflow: {' '.join(str(error).split())}") from error
        return self.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, [Metric(tag, value, now, step) for tag, value in values.items()])

    def image(self, step: int, tag: str, png: bytes) -> None:
        from PIL import Image

        self.client.log_image(self.run_id, Image.open(io.BytesIO(png)), artifact_file=f"{tag}/{step:08d}.png")

    def end(self, error: type[BaseException] | None) -> None:
        status = "FINISHED" if error is None else "KILLED" if issubclass(error, SystemExit) else "FAILED"
        self.client.set_terminated(self.run_id, status)


def require(package: str) -> None:
    """Raises ValueError where a package is not installed."""
    if find_spec(package) is None:
        raise ValueError(f"{package} is not installed: pip install 'gan-runner[{package}]'")


def title_of(directory: Path) -> str:
    """What a run is called: its directory, as seen from `outputs`."""
    here = Path.cwd() / "outputs"
    path = directory.absolute()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
