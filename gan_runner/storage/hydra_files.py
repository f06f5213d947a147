"""What Hydra's files in a run's or a sweep's directory say of the command line that made it."""

from pathlib import Path
from typing import Any

import yaml

CONFIG, OVERRIDES, HYDRA = ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml"  # of a run
MULTIRUN = "multirun.yaml"  # of a sweep


def words_of_run(directory: Path) -> list[str] | None:
    """The words that made a run: ["loss=hinge", "seed=1"]; None where they are not known."""
    words = read_or_none(directory / OVERRIDES)
    return [str(word) for word in words] if isinstance(words, list) else None


def flags_of(file: Path) -> list[str]:
    """`--config-dir` and its folder, if one was given, as hydra.yaml or multirun.yaml has it."""
    node = read_or_none(file)
    for key in ("hydra", "runtime", "config_sources"):
        node = node.get(key) if isinstance(node, dict) else None
    for source in node if isinstance(node, list) else []:
        if isinstance(source, dict) and source.get("provider") == "command-line":
            folder = Path(str(source.get("path")))
            here = folder.is_relative_to(Path.cwd())
            return ["--config-dir", str(folder.relative_to(Path.cwd()) if here else folder)]
    return []


def read_or_none(path: Path) -> Any:
    """A YAML file; None where it cannot be read."""
    try:
        return load_yaml(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def load_yaml(path: Path) -> Any:
    """A YAML file. Raises OSError, ValueError and yaml.YAMLError; ValueError also for aliases: a few lines could unfold
    to gigabytes.
    """
    text = path.read_bytes().decode()
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.CSafeLoader)):
        raise ValueError(f"{path} has aliases")
    return yaml.load(text, yaml.CSafeLoader)
