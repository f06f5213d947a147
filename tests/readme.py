"""The table of config groups in README.md: `python -m tests.readme` writes it, a test compares it with conf/."""

import re
from pathlib import Path

from gan_runner.config.schema import conf_directory
from tests.helpers import README

BEGIN, END = "<!-- groups: written by `python -m tests.readme` -->\n", "<!-- end of groups -->\n"


def about(path: Path) -> str:
    """The first sentence of a config file's comment, without its source."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line]
    text = " ".join(line.removeprefix("#").strip() for line in lines).replace("et al. ", "et al ")
    source = r"(: [A-Z][^:]*|[,:]? \([^()]*)(19|20)\d\d.*"
    sentence = re.sub(source, "", text.split(". ")[0])
    return sentence.rstrip(".").replace("|", "\\|")


def table() -> str:
    rows = ["| group | option | what it is |", "|---|---|---|"]
    for group in sorted(path for path in conf_directory().iterdir() if path.is_dir()):
        for number, path in enumerate(sorted(group.glob("*.yaml"))):
            rows.append(f"| {f'`{group.name}`' if number == 0 else ''} | `{path.stem}` | {about(path)} |")
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
