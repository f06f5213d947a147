"""What the package uses of other libraries that they do not promise to keep, each with its reason.

These are names with a leading underscore: attributes of what is not the package's own, and modules that are imported.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import gan_runner

PACKAGE = Path(gan_runner.__file__).parent

DOCUMENTED = ("_asdict", "_replace", "_exit")  # of named tuples, and of `os`
ALLOWED = {
    "hydra._internal.utils.get_args_parser": "Hydra's flags, whose mistakes argparse would answer with a page of usage",
    "hydra._internal.config_loader_impl.ConfigLoaderImpl": "composes a thousand jobs of a sweep from one config",
    "_apply_overrides_to_config": "the same: Hydra takes 100 ms for a job, this less than one",
    "_EXECUTOR": "whether a launcher of hydra-submitit-launcher is for SLURM or for this machine",
    "_trial_id": "Optuna has no other way to a trial that a killed search had begun",
    "_buffers": "a module's buffers by name, exchanged in place: `register_buffer` would order them anew",
    "_ConvNd": "what all convolutions are, and nothing else is",
    "_BatchNorm": "the same of batch normalization",
    "_DropoutNd": "the same of dropout",
    "_C": "where the next two are",
    "_cuda_endAllocateToPool": "closes the memory pool that a failed recording of a CUDA graph left open",
    "_will_engine_execute_node": "whether the backward pass asks for a gradient; `needs_input_grad` does not know",
    "_foreach_lerp_": "the moving average of all weights in one kernel",
    "_get_default_mps_generator": "the one that dropout on Apple's GPUs draws from; CUDA's has a public name",
    "_option_string_actions": "the flags of a verb, for a shell that completes them; argparse has no other list",
    "_shutdown_workers": "ends the processes of a DataLoader now, and not when it is collected",
    "_workers": "the same, where one does not answer",
}


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def of_others(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """The private names that a module imports, or reads from something of another library."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if any(map(private, alias.name.split("."))))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if any(map(private, name.split("."))))
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield node.attr


def test_private_parts_are_these():
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    attributes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    own = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "self"}
    found = {name for tree in trees for name in of_others(tree, own)}
    assert sorted(found - {*DOCUMENTED}) == sorted(ALLOWED)
