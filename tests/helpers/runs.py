"""What runs leave in their directories, read and compared."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

CLOCKS = {"seconds", "images_per_second", "wall_time"}


def summary(run: Path | str = "run") -> dict[str, Any]:
    return json.loads(Path(run, "summary.json").read_text())


def rows(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a file of JSON."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def without_clocks(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def metrics(run: Path | str = "run") -> list[dict[str, Any]]:
    """What was logged, but for what tells the time."""
    return without_clocks(rows(Path(run, "metrics.jsonl")))


def contents(run: Path) -> dict[str, Any]:
    """All that a finished run leaves, but what tells the time."""
    return {
        "summary": {key: summary(run).get(key) for key in ("status", "reason", "step", "metrics", "best")},
        "metrics": metrics(run),
        "evaluations": without_clocks(rows(run / "evaluations.jsonl")),
        "tensorboard": events(run),
        "samples": {path.name: path.read_bytes() for path in (run / "samples").iterdir()},
        "checkpoints": {path.name: checkpoint(path) for path in (run / "checkpoints").glob("*.pt")},
    }


def events(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard loads of a run, tag -> (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loaded = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    loaded.Reload()
    tags = loaded.Tags()
    found = {tag: [(e.step, e.value) for e in loaded.Scalars(tag)] for tag in tags["scalars"] if tag not in CLOCKS}
    pictures = {tag: [(e.step, e.encoded_image_string) for e in loaded.Images(tag)] for tag in tags["images"]}
    return found | pictures | {"hparams": sorted(loaded.summary_metadata)}


def checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, without the clock."""
    content = torch.load(path, weights_only=True)
    del content["report"]["seconds"]
    return content


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two nested values differ, to the last bit."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__}, {type(other).__name__}"
    elif isinstance(one, dict):
        for key in {**one, **other}:
            if key not in one or key not in other:
                yield f"{where}/{key}: only in one"
            else:
                yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} items"
        for number, (item, its_other) in enumerate(zip(one, other, strict=False)):
            yield from differences(item, its_other, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or raw(one) != raw(other):
            yield f"{where}: other numbers"
    elif repr(one) != repr(other):  # NaN is NaN
        yield f"{where}: {repr(one)[:80]}, {repr(other)[:80]}"


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
