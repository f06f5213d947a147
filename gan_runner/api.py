"""gan_runner from Python: `train`, `load`, and the run that both return."""

import contextlib
import copy
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gan_runner.config.compose import compose_run, trusted_packages
from gan_runner.config.errors import ConfigError, Stopped, TrainingFailed
from gan_runner.config.explain import explain
from gan_runner.config.process_rank import launched_process
from gan_runner.config.stored import stored_config
from gan_runner.reporting.run_table import log_table
from gan_runner.storage.outputs import LATEST, checkpoint_file, newest
from gan_runner.training.build import arithmetic_of
from gan_runner.training.load import Trained, load_trained
from gan_runner.training.run import start
from gan_runner.training.sampling import choose_labels, draw_latents, draw_samples

if TYPE_CHECKING:
    import pandas as pd


class TrainedRun:
    """A run in its directory, with the networks of one of its checkpoints; `load` and `train` return it."""

    def __init__(self, path: Path, config: dict[str, Any], trained: Trained):
        self.path, self.config = path, config
        self._trained = trained

    path: Path
    """The run directory."""
    config: dict[str, Any]
    """The composed config, nested; with what `load` was told to change."""

    def __repr__(self) -> str:
        return f"<gan_runner run {self.path}: {self.status}, step {self.step:,}>"

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: how the run ended, its last and best metrics, versions, time."""
        return json.loads((self.path / "summary.json").read_text())

    @property
    def status(self) -> str:
        """`completed`, or how else it stands."""
        return str(self.summary["status"])

    @property
    def step(self) -> int:
        """Training steps behind the checkpoint."""
        return self._trained.step

    @property
    def metrics(self) -> "pd.DataFrame":
        """metrics.jsonl: a row for each log point, indexed by the step, and a column for each tag."""
        return log_table(self.path / "metrics.jsonl")

    @property
    def generator(self) -> nn.Module:
        """The network that samples are drawn from, in evaluation mode; an autoencoder's decodes when it is called.

        generator(latents (N, latent_size), labels (N,) or None) -> samples as normalised for training, (N, C, H, W) or
        (N, D). It is the moving average, unless the run was loaded with `raw=True`.
        """
        return self._trained.built.game.shown.eval()

    @property
    def discriminator(self) -> nn.Module:
        """The discriminator, in evaluation mode: samples, labels (N,) or None -> logits (N,).

        Raises AttributeError for an autoencoder, which has none.
        """
        players = self._trained.built.game.players
        if "discriminator" not in players:
            raise AttributeError(f"{self.path}: its model has no discriminator")
        return players["discriminator"].network.eval()

    @torch.no_grad()
    def logits(self, samples: Tensor, labels: int | Iterable[int] | None = None) -> Tensor:
        """What the discriminator says of samples as `sample` gives them, on the CPU: (N, C, H, W) or (N, D) -> (N,).

        `labels` are their classes, (N,) or one for all, which a conditional run wants. Raises AttributeError as
        `discriminator`, ValueError for another number of labels, and for a class that there is not.
        """
        game = self._trained.built.game
        told = None
        if labels is not None:
            wanted = [labels] * len(samples) if isinstance(labels, int) else [int(label) for label in labels]
            if len(wanted) != len(samples):
                raise ValueError(f"labels: {len(wanted)} of them for {len(samples)} samples")
            told = choose_labels(game, wanted, len(samples)).to(game.data.device)
        with arithmetic_of(self._trained.built.settings, print):
            logits: Tensor = self.discriminator(game.data.from_unit(samples.to(game.data.device)), told)
        return logits.cpu()

    def sample(
        self, count: int, *, labels: int | Sequence[int] | None = None, truncation: float | None = None, seed: int = 0
    ) -> Tensor:
        """Samples on the CPU, float32: images (count, C, H, W) in [0, 1], or points (count, D).

        `labels` are classes, in turn, of a conditional run; by default all of them. `truncation` keeps every entry of
        normal latents within [-truncation, truncation], and of model=stylegan2 the styles at that share of their way
        from the mean style. The same seed gives the samples of `gan-runner sample --seed`.
        Raises ValueError where the run has no such class, its latents cannot be truncated, or not so: `truncation` is
        above 0 and finite.
        """
        game = copy.copy(self._trained.built.game)
        if truncation is not None:
            game.truncate(truncation)
        latents = draw_latents(game, seed, count)
        chosen = choose_labels(game, [labels] if isinstance(labels, int) else labels, count)
        with arithmetic_of(self._trained.built.settings, print):
            samples = draw_samples(game, latents, chosen)
        return (game.data.to_unit(samples) if samples.dim() == 4 else samples).cpu()


def load(
    directory: str | Path, overrides: Sequence[str] = (), *, checkpoint: str | int = "last", raw: bool = False
) -> TrainedRun:
    """The run in a directory; "latest" is the newest in `outputs`.

    `overrides` change its config, as those of the verbs do: ["device=cpu"]. `checkpoint` is last, previous, best, the
    step of a snapshot, or a file. `raw` takes the weights themselves, and not their moving average.
    Raises ConfigError, a ValueError, where directory, checkpoint and config do not fit.
    """
    path = Path(directory)
    if str(directory) == LATEST:
        path = newest()
    config, trust = stored_config(path, listed("load", overrides))
    file = checkpoint_file(path, str(checkpoint))
    return TrainedRun(path, config, load_trained(file, config, trust, raw=raw, truncation=None, with_data=False))


def listed(function: str, overrides: Sequence[str]) -> list[str]:
    """The words that a function was given. Raises ConfigError for one string, and for what is none."""
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise ConfigError(f"{function}: a list of words is wanted, as ['loss=hinge', 'steps=500'], not {overrides!r}")
    return list(overrides)


def train(overrides: Sequence[str]) -> TrainedRun:
    """Train as `gan-runner OVERRIDES...` would, and return the run: train(["loss=hinge", "steps=500"]).

    Raises ConfigError, a ValueError, before any work where a shell line would be refused; Stopped where the run
    diverges, or ends for another reason that one line explains; KeyboardInterrupt after Ctrl-C, the run being saved.
    """
    words = listed("train", overrides)
    if process := launched_process(os.environ):
        raise ConfigError(
            f"train: {process.world_size} processes have been started, each of which would train a run of its own; "
            "torchrun -m gan_runner KEY=VALUE ... trains one, as does train([..., 'devices=N']) in one process"
        )
    for word in words:
        if word.startswith("-"):
            raise ConfigError(f"{word}: train takes key=value; flags and sweeps (-m) are for the shell")
    try:
        composed, path = compose_run(words)
        start(composed, trusted_packages(words), path)
    except (ConfigError, Stopped):
        raise
    except TrainingFailed as failure:
        raise failure.__cause__ or failure from None
    except SystemExit:
        raise KeyboardInterrupt from None
    except Exception as error:
        raise ConfigError(explain(error, words)) from error
    with contextlib.suppress(ValueError):  # as it is printed
        path = path.relative_to(Path.cwd())
    return load(path, [word for word in words if word.startswith("trust=")])
