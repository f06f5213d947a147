"""Hostile words, files and directories: never a traceback, a hang, or a file changed where it is nobody's business.

A few examples of each by default; 10,000 in `make test-all`.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gan_runner.config.explain import dotted_keys
from gan_runner.config.schema import GROUPS
from gan_runner.training import run as runner
from gan_runner.training.build import build
from tests.helpers import METRIC, SMALL, compose

pytestmark = pytest.mark.usefixtures("python_yaml")

DEEP = 3000  # brackets
HOSTILE = [
    "", " ", "\t", "\n", "a\nb", "null", "true", "false", "nan", "inf", "-inf", "1e400", "-1", "0", "1", "2", "1.5", "9" * 30,
    "9" * 5000, "1e5", "0x10", "1_000", "'", '"', "'a", "a'b", '"a', "[", "]", "[]", "[1", "[1,2]", "[null]", "[[[]]]",
    "[" * DEEP + "]" * DEEP, "{", "{}", "{a:1}", "{a:{b:{_target_:os.mkdir}}}", "{_target_:torch.nn.ReLU}", "${", "${x}",
    "${seed}", "${.seed}", "${..}", "${oc.env:HOME}", "${oc.env:NOPE}", "${now:%}", "${now:%Y}", "${hydra:job.num}",
    "${oc.decode:'[1'}", "${oc.create:{a:1}}", "${model}", "${loss}", "???", "a,b", "1,2", "range(3)", "choice(1,2)",
    "glob(*)", "sort(3,1)", "shuffle(1,2)", "int(x)", "int(1.5)", "str([1])", "float(nan)", "tag(x,1)", "json_str({})",
    "a=b", "=", "==", "a b", "\\", "\\'", "%s", "%(x)s", "{0}", "é", "\u202e", "\x00", "\udcff", "\U0001f4a5", "a" * 5000,
    "~", "@", "*", "-", "--", "#", "# x", ":", "a: b", "a:b", "&a", "*a", "!!python/object/apply:os.mkdir [ran]", "_", "on",
    "none", "mlp", "digits", "ring", "wgan", "r1", "[r1,l1]", "[r1,r1]", "adam", "cosine", "classes", "dcgan_paper", "/", "..",
    "torch.nn.ReLU", "gan_runner.losses.Hinge", "gan_runner.losses", "gan_runner.models.mlp.Generator", "cpu", "cuda:99",
    "[generator]", "run", "run/checkpoints/last.pt",
]  # fmt: skip
HUGE = st.integers(-(10**40), 10**40).map(str) | st.floats().map(repr)
VALUES = st.sampled_from(HOSTILE) | HUGE | st.text(max_size=20)
FLAGS = [
    "-m", "--multirun", "--run", "-r", "--help", "-h", "--version", "--cfg", "--cfg=job", "--cfg=x", "-c", "job", "all", "--resolve",
    "--package", "-p", "_global_", "--info", "--info=defaults", "--hydra-help", "--shell-completion", "-sc", "install=bash",
    "query=bash", "--config-dir", "--config-dir=run", "-cd", "run/.hydra", "--config-name", "--config-name=overrides", "-cn",
    "config", "--config-path=nowhere", "--config-path", "pkg://x", "--experimental-rerun=x", "--", "-", "-x", "-mx", "--=", "--m",
    "--steps", "x", "resume", "report", "help",
]  # fmt: skip
HYDRA = [
    "hydra", "hydra.mode", "hydra.job.name", "hydra.job.id", "hydra.sweeper", "hydra.sweeper.params", "hydra.launcher",
    "hydra.launcher._target_", "hydra.callbacks", "hydra.overrides.task", "hydra.runtime.choices", "hydra.job_logging",
    "hydra/launcher", "hydra/sweeper", "hydra/output", "hydra/help", "hydra/x", "hydra.env", "hydra.output_subdir",
]  # fmt: skip


@pytest.fixture
def place(tmp_path, run_cli, monkeypatch) -> Callable[[], Path]:
    """Makes an empty directory to stand in, with a run of 3 steps in `run`; and lets no run go further than its networks."""
    whole = tmp_path / "whole"
    code, _, error = run_cli(*SMALL, f"hydra.run.dir={whole}")
    assert code == 0, error

    def prepare(config: dict[str, Any], trust: list[str]) -> Callable[..., None]:
        if is_small(config):
            build(config, trust)
        return lambda *arguments, **keywords: None

    monkeypatch.setattr(runner, "prepare", prepare)
    number = iter(range(10**6))

    def make() -> Path:
        path = tmp_path / "above" / str(next(number))
        shutil.copytree(whole, path / "run")
        (path / "own").write_text("precious")
        os.chdir(path)
        return path

    return make


def is_small(node: Any) -> bool:
    """Whether building it takes no time and space to speak of."""
    if isinstance(node, dict):
        return all(
            is_small(value) for key, value in node.items() if key not in ("steps", "ema_half_life", "divergence")
        )
    if isinstance(node, list):
        return all(is_small(value) for value in node)
    return not isinstance(node, int | float) or abs(node) < 600


def content(path: Path) -> dict[str, bytes | None]:
    """All files and directories."""
    return {str(found): found.read_bytes() if found.is_file() else None for found in sorted(path.rglob("*"))}


def check(run_cli: Callable[..., tuple[int, str, str]], words: list[str], place: Path, may_change: str) -> None:
    """What must hold whatever the words are."""
    os.chdir(place)
    before = content(place.parent)
    code, out, error = run_cli(*words)
    assert code in (0, 1), (words, error)
    assert "Traceback" not in out + error, error
    if code:
        assert error.startswith("gan-runner: "), error
        assert len(error.splitlines()) == 1, error
        assert len(error) < 2100
    after = content(place.parent)
    changed = {name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0)}
    assert all(name.startswith(str(place / may_change)) for name in changed), changed
    os.chdir(place.parent)
    if may_change == "run":
        shutil.rmtree(place)
    elif changed:
        shutil.rmtree(place / may_change)


def examples(count: int):
    """`count` examples, whatever time they take."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=count < 500,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def few_and_many(few: int, many: int) -> pytest.MarkDecorator:
    """So many examples by default, and in `make test-all`."""
    slow = pytest.param(many, marks=[pytest.mark.slow, pytest.mark.timeout(3 * many)])
    return pytest.mark.parametrize("count", [few, slow])


KEYS = [*dotted_keys(compose("regularizer=[r1,l1]", "lr_schedule=cosine")), *GROUPS, "experiment"]
STRANGE_KEYS = ["x", "", "a.b", "a b", "é", "model.", ".model", "model..x", "'seed'", "loss@x", "loss@_global_", "0"]
SETTING = st.tuples(st.sampled_from(KEYS), st.just("="), VALUES)
PREFIXED = st.tuples(st.sampled_from(["+", "++", "~"]), st.sampled_from(KEYS), st.just("="), VALUES)
LONGER = st.tuples(
    st.sampled_from(["", "+", "++"]), st.sampled_from(KEYS), st.sampled_from([".x", "._target_", "@x", "@", ".0", ".schedule"]),
    st.just("="), VALUES,
)  # fmt: skip
STRANGE = st.tuples(
    st.sampled_from(["", "+", "++", "~"]), st.sampled_from([*STRANGE_KEYS, *HYDRA]) | st.text(max_size=8), st.just("="), VALUES
)  # fmt: skip
OVERRIDE = st.one_of(SETTING, SETTING, PREFIXED, LONGER, STRANGE).map("".join)
WORDS = st.lists(OVERRIDE, min_size=1, max_size=2) | st.lists(OVERRIDE | st.sampled_from(FLAGS) | VALUES, max_size=4)


@few_and_many(10, 1500)
def test_words(run_cli, place, count):
    standing = place()

    @examples(count)
    @given(WORDS)
    def test(words):
        check(run_cli, [*words, "device=cpu"], standing, "outputs")

    test()


# --- YAML

NAMES = st.sampled_from([*GROUPS, *KEYS, "hydra", "defaults", "_target_", "trust", "x", "on", "1", "a b", "é", "<<"])
LEAF = st.sampled_from(HOSTILE) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
NODE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
HEADER = st.sampled_from(
    ["", "", "# @package _global_\n", "# @package x\n", "# @package hydra\n", "# @package\n", "%YAML 1.1\n", "---\n"]
)
DEFAULTS = st.lists(
    st.sampled_from(["_self_", "config", "mlp", "a", "/loss/a", "none"])
    | st.dictionaries(
        st.sampled_from(
            [
                *GROUPS,
                *(f"override /{group}" for group in GROUPS),
                "/loss@x",
                "optional loss",
                "override hydra/launcher",
            ]
        ),
        st.sampled_from(["a", "none", "mlp", None, ["a"], 1, "${seed}", "???", "_self_"]),
        max_size=2,
    )
    | LEAF,
    max_size=3,
)
RAW = st.lists(
    st.sampled_from([*"-[]{}:,&*!|>'\"%@`#? \n\t", "a", "a: ", "- ", "\n  ", "&a ", "*a", "<<: ", "!!python/name:os.mkdir ", "\x00", "é"]),
    max_size=30,
).map("".join)  # fmt: skip


def dump(node: Any) -> str:
    return yaml.safe_dump(node, allow_unicode=True)


MAPPING = st.dictionaries(NAMES, NODE, max_size=4)
DOCUMENT = st.tuples(HEADER, MAPPING.map(dump)).map("".join)
WITH_DEFAULTS = st.tuples(HEADER, DEFAULTS, MAPPING).map(
    lambda parts: parts[0] + dump({"defaults": parts[1], **parts[2]})
)
YAML = st.one_of(DOCUMENT, WITH_DEFAULTS, NODE.map(dump), RAW).map(
    lambda text: text.encode("utf-8", "surrogateescape")
) | st.binary(max_size=40)


@few_and_many(5, 500)
def test_config_directories(run_cli, place, count):
    standing = place()

    @examples(count)
    @given(
        YAML, st.sampled_from(["loss/a.yaml", "regularizer/a.yaml", "experiment/a.yaml", "mine.yaml", "model/a.yaml"])
    )
    def test(text, name):
        path = standing / "conf" / name
        shutil.rmtree(standing / "conf", ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_bytes(text)
        word = [f"{path.parent.name}=a"] if path.stem == "a" else ["--config-name=mine"]
        check(run_cli, ["--config-dir", "conf", *word, "device=cpu", "hydra.run.dir=outputs/x"], standing, "outputs")

    test()


# --- run directories

VERBS = [
    ["sample", "run", "--count", "1"], ["sample", "run", "--checkpoint", "previous", "--out", "run/x.npz"],
    ["evaluate", "run", *METRIC], ["evaluate", "run", "--neighbors", "1"], ["resume", "run"],
    ["resume", "run", "steps=4"], ["resume", "run", "steps=4", "--any-version"],
]  # fmt: skip
PARTS = [
    ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml", ".hydra", "metrics.jsonl", "evaluations.jsonl",
    "gan_runner.log", "summary.json", "checkpoints/last.pt", "checkpoints/last.pt.sha256", "checkpoints/previous.pt",
    "checkpoints/previous.pt.sha256", "checkpoints", "samples", "samples/real.png", ".lock", "generated", "events",
]  # fmt: skip
SHAPES = ["", "[]", "{}", "null", "3", "true", '"x"', "[1]", '{"a": 1}', "{'status': 3}", '{"status": "running"}', "[" * DEEP, "a: [", "\n\n",
    '{"status": "completed", "best": 3, "horizon": "x", "resumed": 1}', '{"step": "x"}\n3\nnull\n[]\n', "x" * 9999]  # fmt: skip
REMOVED, FOLDER, HALF, LINK, ODD = "removed", "a directory", "half of it", "a link into nothing", "odd content"
DAMAGE = (
    st.sampled_from([REMOVED, FOLDER, HALF, LINK, ODD])
    | st.sampled_from(SHAPES).map(str.encode)
    | st.binary(max_size=200)
    | st.tuples(st.sampled_from(KEYS), NODE)
    | st.tuples(st.integers(0, 2**20), st.integers(1, 255))
)


DAMAGES = st.lists(st.tuples(st.sampled_from(PARTS), DAMAGE), min_size=1, max_size=2, unique_by=lambda pair: pair[0])


def damage(path: Path, kind: Any) -> None:
    """Do something to a file that may not be there; below what was made a file before, there is nothing."""
    if any((above.exists() or above.is_symlink()) and not above.is_dir() for above in path.parents):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    before = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == FOLDER:
        (path / "x").mkdir(parents=True)
    elif kind == HALF:
        path.write_bytes(before[: len(before) // 2])
    elif kind == LINK:
        path.symlink_to("nowhere")
    elif isinstance(kind, bytes):
        path.write_bytes(kind)
    elif isinstance(kind, tuple) and isinstance(kind[0], int):
        at = kind[0] % max(1, len(before))
        path.write_bytes(before[:at] + bytes(byte ^ kind[1] for byte in before[at : at + 1]) + before[at + 1 :])
    elif isinstance(kind, tuple) and path.name == "config.yaml":
        config = yaml.safe_load(before) or {}
        *above, last = kind[0].split(".")
        node = config
        for key in above:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                break
        else:
            node[last] = kind[1]
        path.write_text(dump(config), errors="surrogateescape")
    elif kind == ODD or isinstance(kind, tuple):
        path.write_bytes(before)


@few_and_many(8, 600)
def test_run_directories(run_cli, place, count):
    @examples(count)
    @given(DAMAGES, st.sampled_from(VERBS))
    def test(damages, words):
        standing = place()
        for part, kind in damages:
            path = (
                next((standing / "run").glob("events.out*"), standing / "run" / part)
                if part == "events"
                else standing / "run" / part
            )
            damage(path, kind)
        check(run_cli, [*words, "device=cpu"], standing, "run")

    test()


def odd_checkpoint(content: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A checkpoint with another value in a place."""
    node = content
    for key in path[:-1]:
        node = node[key]
    if value is REMOVED:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


def paths(node: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of a nested dict."""
    return [
        found
        for key, value in node.items()
        for found in [(*prefix, key), *(paths(value, (*prefix, key)) if isinstance(value, dict) else [])]
    ]


@few_and_many(6, 400)
def test_checkpoints(run_cli, place, count):
    whole = torch.load(place() / "run/checkpoints/last.pt", weights_only=True)
    odd: list[object] = [
        REMOVED,
        None,
        0,
        -1,
        3.5,
        "x",
        [],
        {},
        [1],
        True,
        float("nan"),
        torch.zeros(3),
        torch.zeros(0),
        10**12,
        b"x",
        {"a": {}},
    ]

    @examples(count)
    @given(st.sampled_from(paths(whole)), st.sampled_from(range(len(odd))), st.sampled_from(VERBS))
    def test(path, number, words):
        if words[0] == "resume" and len(path) > 1:  # Training on may fail as a program does
            words = VERBS[0]
        standing = place()
        checkpoint = standing / "run/checkpoints/last.pt"
        content = torch.load(checkpoint, weights_only=True)
        torch.save(odd_checkpoint(content, path, odd[number]), checkpoint)
        checkpoint.with_name("last.pt.sha256").unlink()
        check(run_cli, [*words, "device=cpu"], standing, "run")

    test()
