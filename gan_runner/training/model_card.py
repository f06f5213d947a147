"""The model card of an exported generator: Mitchell et al. 2019, arXiv:1810.03993."""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gan_runner.games.game import Game
from gan_runner.games.latents import Latents, Normal, TruncatedNormal, Uniform
from gan_runner.reporting.tables import markdown_table
from gan_runner.storage.hydra_files import HYDRA, flags_of, words_of_run
from gan_runner.storage.outputs import is_run
from gan_runner.training.evaluation import floors

USE = {
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(samples,) = session.run(None, {{{inputs}}})""",
    "pt2": """import torch

generator = torch.export.load("{file}").module()
samples = generator({inputs})""",
    "safetensors": """import gan_runner
from safetensors.torch import load_file

generator = gan_runner.load("{run}").generator  # the structure; the config is in the file's metadata
generator.load_state_dict(load_file("{file}"))""",
}
LABELS = {"onnx": ', "labels": np.zeros(16, np.int64)', "pt2": ", torch.zeros(16, dtype=torch.long)"}
LATENTS: dict[type[Latents], dict[str, str]] = {
    Normal: {"onnx": "np.random.randn(16, {size})", "pt2": "torch.randn(16, {size})"},
    Uniform: {"onnx": "np.random.uniform(-1, 1, (16, {size}))", "pt2": "2 * torch.rand(16, {size}) - 1"},
    TruncatedNormal: {
        "onnx": "scipy.stats.truncnorm.rvs(-{bound}, {bound}, size=(16, {size}))",
        "pt2": "torch.nn.init.trunc_normal_(torch.empty(16, {size}), a=-{bound}, b={bound})",
    },
}


class Exported(NamedTuple):
    """A file that was written."""

    path: Path
    format: str
    sha256: str
    difference: float
    step: int


def model_card(run: Path, game: Game, config: dict[str, Any], exported: Exported) -> str:
    """Markdown: how to use the file, the data, the command, the metrics with their floors, the samples."""
    summary = json.loads((run / "summary.json").read_text()) if is_run(run) else {}
    data, options = game.data, summary.get("options", {})
    name = options.get("dataset") or config["dataset"]["_target_"].rpartition(".")[2]
    facts = {
        "data": f"{name}, {data.size:,} samples" if data.size else f"{name}, endless",
        "a sample": " x ".join(map(str, data.shape)) + (" (C x H x W)" if len(data.shape) == 3 else " numbers"),
        "classes": f"{data.num_classes}, which it is told" if game.is_conditional else "it is told none",
        "latents": f"{game.latents.size}, {type(game.latents).__name__}",
        "step": f"{exported.step:,}",
        "weights": "moving average" if game.moving_average else "raw",
        "command": f"`{command(run)}`",
        "versions": ", ".join(f"{key} {value}" for key, value in summary.get("versions", {}).items()),
        "commit": str(summary.get("commit") or "-"),
        "device": f"{summary.get('device', '-')}, {config['precision']}",
        "file": f"`{exported.path.name}`, SHA-256 `{exported.sha256}`",
        "checked": f"its outputs are within {exported.difference:.1g} of the run's in float32",
    }  # fmt: skip
    parts = [
        f"# {exported.path.stem}",
        "A generator that gan_runner trained.",
        f"![Samples]({exported.path.with_suffix('.png').name})",
        "## Use",
        f"```python\n{snippet(run, game, exported)}\n```",
        scaling(game),
        "## Training",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "## Metrics",
        metrics(run, exported.step, facts["weights"]),
    ]
    return "\n\n".join(parts) + "\n"


def command(run: Path) -> str:
    """The command line that made a run."""
    return shlex.join(["gan-runner", *flags_of(run / HYDRA), *(words_of_run(run) or [])])


def snippet(run: Path, game: Game, exported: Exported) -> str:
    """Python that draws samples from the file."""
    kind, latents = exported.format, game.latents
    drawn = LATENTS[type(latents)].get(kind, "").format(size=latents.size, bound=getattr(latents, "bound", None))
    inputs = f'"latents": {drawn}.astype(np.float32)' if kind == "onnx" else drawn
    inputs += LABELS.get(kind, "") if game.is_conditional else ""
    return USE[exported.format].format(file=exported.path.name, inputs=inputs, run=run)


def scaling(game: Game) -> str:
    """How outputs become pixels."""
    if game.data.scale is None or game.data.shift is None:
        return "The outputs are points, as in the data."
    scale, shift = (part.flatten().tolist() for part in (game.data.scale, game.data.shift))
    return f"Pixels of 0 to 255 are (output - shift) / scale, by channel: scale {scale}, shift {shift}."


def metrics(run: Path, step: int, weights: str) -> str:
    """The last evaluation of these weights against the training data, with what real data have (the floor)."""
    path = run / "evaluations.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    fitting = [record for record in records if record["step"] == step and record["weights"] == weights]
    fitting = [record for record in fitting if record.get("truncation") is None]
    if not fitting:
        return "This checkpoint was not evaluated."
    record, rows = fitting[-1], []
    for name, measured in record["metrics"].items():
        for key, value in measured["values"].items():
            floor = floors(record).get(f"metric/{name}/{key}")
            shown = f"{floor['floor']:.4g}" if floor else ""
            if floor and floor["is_fewer"]:
                shown += f" (of {floor['generated']:,}; as few generated: {floor['value']:.4g})"
            counts = f"{measured['generated']:,}" + (f" against {measured['real']:,} real" if measured["real"] else "")
            rows.append([f"{name}.{key}", f"{float(value):.5g}", shown, counts])
    table = markdown_table(pd.DataFrame(rows, columns=["metric", "value", "real data", "samples"]))
    network = record.get("features")
    return table + (f"\n\nThrough the network {network['name']}, SHA-256 `{network['sha256']}`." if network else "")
