"""The table of config groups in README.md: `python -m tests.readme` writes it, a test compares it with conf/."""

from gan_runner.config.schema import conf_directory
from tests.helpers import README

BEGIN, END = "<!-- groups: written by `python -m tests.readme` -->\n", "<!-- end of groups -->\n"


def table() -> str:
    rows = ["| group | options |", "|---|---|"]
    for group in sorted(path for path in conf_directory().iterdir() if path.is_dir() and path.name != "hydra"):
        options = ", ".join(f"`{path.stem}`" for path in sorted(group.glob("*.yaml")))
        rows.append(f"| `{group.name}` | {options} |")
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
