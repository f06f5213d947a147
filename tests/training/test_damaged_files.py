"""Run directories with files that are damaged: one line, or no harm."""

import pytest

from tests.helpers import METRIC, SMALL, refusal, some
from tests.helpers.runs import rows

pytestmark = pytest.mark.usefixtures("python_yaml")


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_damaged_checkpoint_and_the_verbs(is_cut, small_run, run_cli):
    path = small_run / "checkpoints/last.pt"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole[:5000] if is_cut else whole)
    for words in (["sample", "run"], ["evaluate", "run", *METRIC]):
        refusal(run_cli(*words), "run/checkpoints/last.pt", "SHA-256")
    refusal(run_cli(*SMALL, "init_from=run", "hydra.run.dir=next"), "init_from=run", "last.pt")


CUT = b'{"step": 1, "images": 40, "loss/gen'
FILES = [
    ("metrics.jsonl", CUT, "resume", None),
    ("metrics.jsonl", b"", "resume", None),
    ("metrics.jsonl", b"\xff\x00", "resume", None),
    ("evaluations.jsonl", CUT, "evaluate", None),
    ("evaluations.jsonl", CUT, "resume", None),
    *(
        ("summary.json", content, "resume", "run/summary.json")
        for content in (b"", b"[]", b"null", b'"status"', b"{", b"\xff", b"\x00\x01")
    ),
    ("summary.json", b"{", "sample", None),
    ("summary.json", b"{", "evaluate", None),
    *(
        (".hydra/config.yaml", content, verb, "run/.hydra/config.yaml")
        for content in (
            b"",
            b"[]",
            b"3",
            b"null",
            b"{",
            b"a: [",
            b"\xff",
            b"\x00\x01",
            b"model: {}",
            b"seed: &a [1]\nx: *a",
            b"[" * 5000,
            b"- " * 5000,
        )
        for verb in ("sample", "evaluate", "resume")
    ),
    (".hydra/overrides.yaml", b"\xff", "resume", None),
    (".hydra/hydra.yaml", b"\xff", "resume", None),
    ("gan_runner.log", b"\xff", "resume", None),
]


@pytest.mark.parametrize("case", some(FILES, every=4))
def test_a_damaged_file_and_a_verb(case, small_run, run_cli):
    name, content, verb, named = case
    (small_run / name).write_bytes(content)
    words = {"resume": ["steps=4"], "evaluate": METRIC, "sample": []}[verb]
    outcome = run_cli(verb, "run", *words)
    if named:
        refusal(outcome, named)
    else:
        assert outcome[0] == 0, outcome[2]
    if name == "metrics.jsonl":
        assert [row["step"] for row in rows(small_run / name)] == [4]  # a line that was cut is none


def test_aliases_fill_no_memory(small_run, run_cli):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12))
    (small_run / ".hydra/config.yaml").write_text(bomb)
    refusal(run_cli("sample", "run"), "config.yaml", "aliases")
