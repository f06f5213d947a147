"""The house: who may import whom."""

import ast
from collections import defaultdict
from pathlib import Path

import gan_runner

PACKAGE = Path(gan_runner.__file__).parent

# The folders and modules of the package, from the top: each imports only from those below it.
LAYERS = [
    "__main__", "cli", "api", "_plugins", "sweeps", "training", "reporting", "regularizers", "metrics", "features",
    "games", "datasets", "heads", "models", "loggers", "losses", "augmentations", "schedules", "optimizers", "config",
    "storage", "torch_utils",
]  # fmt: skip
# They may import hydra and omegaconf.
CONFIGURES = ("cli.", "sweeps.", "training.build", "config.", "_plugins.")
# They import nothing of the house but torch_utils.
FORMULAS = ("losses", "schedules", "augmentations", "models")
# Nothing in them waits for a value.
BELOW_THE_LOOP = (
    "games.adversarial",
    "games.autoencoder",
    "games.game",
    "games.player",
    "games.term",
    "games.view",
    "regularizers",
    "losses",
    "heads",
    "augmentations",
    "models",
    "torch_utils.ema",
)


def modules() -> dict[str, Path]:
    """Dotted name without the package's -> file."""
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    known = modules()
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        for other in imported(path):
            parts = other.removeprefix("gan_runner.").split(".") if other.startswith("gan_runner.") else []
            ends = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            if found_name := next((end for end in ends if end in known), None):
                found[name].add(found_name)
    return found


def layer(name: str) -> int:
    return LAYERS.index(name.partition(".")[0])


def test_every_module_is_in_a_layer():
    assert {name.partition(".")[0] for name in modules()} == set(LAYERS)


def test_a_layer_imports_only_from_those_below():
    for name, others in arrows().items():
        for other in others:
            assert layer(name) <= layer(other), f"{name} imports {other}"


def test_no_circles():
    edges, done = arrows(), set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join((*above, name))}"
        if name not in done:
            for other in edges[name] - {name}:
                visit(other, (*above, name))
            done.add(name)

    for name in list(edges):
        visit(name, ())


def test_no_two_files_of_one_name():
    stems = [name.rpartition(".")[2] for name, path in modules().items() if path.name != "__init__.py"]
    assert sorted(stems) == sorted(set(stems))


def test_only_a_few_modules_know_hydra():
    for name, path in modules().items():
        if any(found.split(".")[0] in ("hydra", "omegaconf") for found in imported(path)):
            assert f"{name}.".startswith(CONFIGURES), name


def test_formulas_import_only_torch_utils():
    for name, others in arrows().items():
        own = name.partition(".")[0]
        if own in FORMULAS:
            assert {other.partition(".")[0] for other in others} <= {own, "torch_utils"}, name


def test_nothing_below_the_loop_reads_a_value():
    for name, path in modules().items():
        if f"{name}.".startswith(tuple(f"{each}." for each in BELOW_THE_LOOP)):
            for call in (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
                assert not (isinstance(call, ast.Attribute) and call.attr in ("item", "tolist", "cpu")), name
                assert not (isinstance(call, ast.Name) and call.id == "print"), name
