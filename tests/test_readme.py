"""What README.md says is so."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_runner.cli.main import VERBS
from tests.helpers import README, SMALL, compose
from tests.readme import with_table

TEXT = README.read_text()
BLOCKS = [block.replace("\\\n", "") for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S)]
LINES = [line for block in BLOCKS for line in block.splitlines()]
RUNS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("gan-runner")]
SINGLE = [words for words in RUNS if words and words[0] not in (*VERBS, "-m", "--config-dir")]
OF_VERBS = [words for words in RUNS if words and words[0] in VERBS]


def test_the_table_of_config_groups_is_that_of_conf():
    assert with_table(TEXT) == TEXT, "python -m tests.readme writes the table"


@pytest.mark.parametrize("words", SINGLE, ids=" ".join)
def test_the_lines_compose(words):
    assert compose(*words)["batch_size"]


@pytest.mark.parametrize("words", OF_VERBS, ids=" ".join)
def test_the_verbs_take_their_lines(words):
    module = importlib.import_module(VERBS[words[0]])
    found = module.parser().parse_intermixed_args(words[1:]).directory
    assert all(path.parts[0] == "outputs" for path in (found if isinstance(found, list) else [found]))


def test_the_examples_in_python(run_cli, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT.partition("## Python")[2].partition("\n## ")[0], re.S)
    words = ["-m", *SMALL, "loss=hinge", "regularizer=gradient_penalty", "sweep=weights", "metric=sliced_wasserstein"]
    small = ["metric.sliced_wasserstein.samples=40", "regularizer.gradient_penalty.weight=1,10"]
    code, _, error = run_cli(*words, *small)
    assert code == 0, error
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["run"].status == "completed"
    assert names["points"].shape == (16, 2)
    assert names["logits"].shape == (16,)
    assert names["table"]["regularizer.gradient_penalty.weight"].tolist() == [1, 10]


def test_it_is_short():
    lines = TEXT.splitlines()
    assert len(lines) <= 350
    assert all(len(line) <= 100 for line in lines if not line.startswith("|"))


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md"])
def test_pictures_and_their_size(name):
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (README.parent / name).read_text())
    assert pictures
    for picture in pictures:
        assert (README.parent / picture).stat().st_size < 100_000


def test_a_penalty_in_ten_lines(run_cli, monkeypatch):
    files = re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", TEXT, re.S)
    names = ["my_gan/penalties.py", "my_conf/regularizer/logit_drift.yaml", "my_conf/experiment/sharp.yaml"]
    assert [name for name, _ in files] == names
    for name, content in files:
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(content)
    assert len(files[0][1].splitlines()) <= 10
    monkeypatch.syspath_prepend(".")
    (words,) = [words for words in RUNS if words and words[0] == "--config-dir"]
    code, _, error = run_cli(*words, "steps=1", "model=mlp", "hydra.run.dir=run")
    assert code == 0, error
    assert "penalty/logit_drift" in Path("run/metrics.jsonl").read_text()
    assert "penalty/gradient_penalty" in Path("run/metrics.jsonl").read_text()
    assert yaml.safe_load(Path("run/.hydra/config.yaml").read_text())["regularizer"]["logit_drift"]["weight"] == 0.001
    said = run_cli("--config-dir", "my_conf", "experiment=sharp", "--cfg", "job")[1]
    assert yaml.safe_load(said)["optimizer"]["discriminator"]["lr"] == 4e-4
