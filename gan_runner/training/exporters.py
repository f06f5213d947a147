"""A trained generator as a file for elsewhere: ONNX, PyTorch's exported programs, safetensors."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner import __version__
from gan_runner.games.game import Game
from gan_runner.torch_utils.randomness import fixed_randomness

TOLERANCE = 1e-4  # of a value of the file's outputs
CHECKED = 5  # samples that are compared


class Sampler(nn.Module):
    """The network as it is exported: latents (N, latent_size), and labels (N,) int64 if it is conditional."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples as normalised for training, (N, C, H, W) or (N, D)."""
        return self.network(latents, labels)


class Format(ABC):
    """A kind of file."""

    suffix: str
    packages: tuple[str, ...] = ()
    """What it needs that only the extra `export` installs."""

    @abstractmethod
    def write(self, path: Path, sampler: Sampler, example: tuple[Tensor, ...], about: dict[str, str]) -> None:
        """Write the file; `about` are texts that go into it."""

    @abstractmethod
    def read(self, path: Path, sampler: Sampler) -> Callable[..., Tensor]:
        """What the file makes of latents and labels; `sampler` gives no more than the structure."""


class Onnx(Format):
    """ONNX: https://onnx.ai. The number of samples is free; the texts are `metadata_props`."""

    suffix = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, path: Path, sampler: Sampler, example: tuple[Tensor, ...], about: dict[str, str]) -> None:
        program = torch.onnx.export(exported(sampler, example), example, dynamo=True, verbose=False)
        assert program is not None, "it is one with dynamo=True"
        program.model.metadata_props.update(about)
        program.save(path)

    def read(self, path: Path, sampler: Sampler) -> Callable[..., Tensor]:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> Tensor:
            named = {node.name: each.numpy() for node, each in zip(session.get_inputs(), inputs, strict=True)}
            return torch.from_numpy(session.run(None, named)[0])

        return run


class ExportedProgram(Format):
    """A program of torch.export, for torch.export.load. The number of samples is free; the texts are extra files."""

    suffix = "pt2"

    def write(self, path: Path, sampler: Sampler, example: tuple[Tensor, ...], about: dict[str, str]) -> None:
        torch.export.save(exported(sampler, example), path, extra_files=about)

    def read(self, path: Path, sampler: Sampler) -> Callable[..., Tensor]:
        return torch.export.load(path).module()


class Safetensors(Format):
    """The weights alone, by the names of the network's state dict; the texts are the file's metadata."""

    suffix = "safetensors"
    packages = ("safetensors",)

    def write(self, path: Path, sampler: Sampler, example: tuple[Tensor, ...], about: dict[str, str]) -> None:
        from safetensors.torch import save_file

        weights = {name: value.contiguous().clone() for name, value in sampler.network.state_dict().items()}
        save_file(weights, path, about)

    def read(self, path: Path, sampler: Sampler) -> Callable[..., Tensor]:
        from safetensors.torch import load_file

        emptied = copy.deepcopy(sampler)
        for value in emptied.state_dict().values():
            value.zero_()
        emptied.network.load_state_dict(load_file(path))
        return emptied


FORMATS: dict[str, Format] = {each.suffix: each for each in (Onnx(), ExportedProgram(), Safetensors())}


def exported(sampler: Sampler, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The network as torch.export traces it, for any number of samples."""
    count = torch.export.Dim("samples")
    return torch.export.export(sampler, example, dynamic_shapes=tuple({0: count} for _ in example))


def missing_packages(name: str) -> list[str]:
    """The packages that a format needs and that are not installed."""
    return [package for package in FORMATS[name].packages if find_spec(package) is None]


@torch.no_grad()
def export(game: Game, config: dict[str, Any], step: int, name: str, path: Path) -> float:
    """Write the network that samples are drawn from; return how far its file's outputs are from its own.

    The file is checked before it has its name: `path` stays as it was where its outputs are more than 1e-4 from the
    network's in float32. Raises ValueError there.
    """
    # Weights of another layout than the usual one make the writers of files warn, or copy them.
    network = copy.deepcopy(game.shown).to(memory_format=torch.contiguous_format)
    sampler = Sampler(network).eval()
    inputs = example_inputs(game, CHECKED)
    written = FORMATS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.draft.{written.suffix}")
    try:
        written.write(draft, sampler, example_inputs(game, 2), description(game, config, step))
        found = written.read(draft, sampler)(*inputs)
        difference = float((found - sampler(*inputs)).abs().max())
        if not difference <= TOLERANCE:  # NaN is not
            raise ValueError(f"{path}: its outputs are {difference:.3g} from the run's, above {TOLERANCE:g}; removed")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def example_inputs(game: Game, count: int) -> tuple[Tensor, ...]:
    """Latents, and labels of a conditional game."""
    latents = game.draw_latents(fixed_randomness(0, "export", game.randomness.device), count)
    return (latents, torch.arange(count) % game.data.num_classes) if game.is_conditional else (latents,)


def description(game: Game, config: dict[str, Any], step: int) -> dict[str, str]:
    """What goes into the file: the config, and what is needed to use the outputs, as JSON."""
    data = game.data
    facts = {
        "gan_runner": __version__,
        "step": step,
        "latent_size": game.latents.size,
        "latents": type(game.latents).__name__,
        "shape": list(data.shape),
        "num_classes": data.num_classes if game.is_conditional else 0,
        "scale": None if data.scale is None else data.scale.flatten().tolist(),
        "shift": None if data.shift is None else data.shift.flatten().tolist(),
    }
    return {"config": json.dumps(config), "generator": json.dumps(facts)}
