"""The house: who may import whom."""

import ast
from pathlib import Path

import gan_runner

PACKAGE = Path(gan_runner.__file__).parent

# A module imports only from floors below its own, or from its own floor where there is no circle.
FLOORS = {
    6: ["sweeps.grid", "sweeps.jobs", "sweeps.search", "_plugins"],
    5: ["cli", "__main__"],
    4: [
        "runner", "sample", "evaluate", "resume", "verbs", "build", "components", "sweeps.batched",
        "sweeps.launchers", "sweeps.sweep",
    ],
    3: [
        "batched", "capture", "train", "report", "preview", "evaluation", "reporting", "games.adversarial",
        "games.autoencoder", "games.game",
    ],
    2: ["player", "penalties"],
    1: [
        "arguments", "augmentations", "budgets", "cache", "checkpoint", "config", "datasets", "determinism",
        "divergence", "double_backward", "ema", "features", "files", "gradients", "guard", "latents", "log", "losses",
        "metrics", "models", "monitors", "optimizers", "parameters", "pictures", "projections", "randomness",
        "run_directory", "schedules", "signals", "stack", "status", "terms", "views", "wrappers",
    ],
}  # fmt: skip
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
# May import hydra and omegaconf.
CONFIGURES = {
    "cli", "build", "config", "guard", "sweeps.grid", "sweeps.jobs", "sweeps.search", "_plugins",
}  # fmt: skip
ALONE = {"losses", "schedules", "augmentations", "models"}  # import nothing of the house


def modules() -> dict[str, Path]:
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(name: str) -> str | None:
    """The entry of FLOORS that a dotted name of the package belongs to."""
    parts = name.split(".")
    return next((".".join(parts[:end]) for end in (2, 1) if ".".join(parts[:end]) in FLOOR), None)


def house(path: Path) -> set[str]:
    """The entries of FLOORS that a file imports."""
    within = [name.removeprefix("gan_runner.") for name in imports(path) if name.startswith("gan_runner.")]
    return {found for name in within if (found := place(name))}


def test_every_module_has_a_floor():
    assert {name for name in modules() if place(name) is None} <= {"games", "sweeps"}
    assert {place(name) for name in modules()} - {None} == set(FLOOR)


def test_imports_run_downward_only():
    for name, path in modules().items():
        own = place(name)
        for other in house(path) - {own}:
            assert own is None or FLOOR[other] <= FLOOR[own], f"{name} imports {other}"


def test_no_circles():
    edges: dict[str, set[str]] = {}
    for name, path in modules().items():
        if own := place(name):
            edges.setdefault(own, set()).update(house(path) - {own})
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join((*above, name))}"
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_only_a_few_modules_know_hydra():
    for name, path in modules().items():
        if any(found.split(".")[0] in ("hydra", "omegaconf") for found in imports(path)):
            assert place(name) in CONFIGURES, name


def test_formulas_import_nothing_of_the_house():
    for name, path in modules().items():
        if place(name) in ALONE:
            assert house(path) - {place(name)} == set(), name


def test_nothing_below_the_loop_reads_a_value():
    for name, path in modules().items():
        if FLOOR.get(place(name) or "", 0) <= 3 and place(name) in {
            "games.adversarial", "games.autoencoder", "games.game", "player", "penalties", "terms", "losses", "views",
            "projections", "gradients", "ema", "wrappers", "augmentations", "models",
        }:  # fmt: skip
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            for call in calls:
                assert not (isinstance(call, ast.Attribute) and call.attr in ("item", "tolist", "cpu")), name
                assert not (isinstance(call, ast.Name) and call.id in ("print",)), name
