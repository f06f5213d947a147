"""`python -m tests.gpu [correctness] [shell] [timings]`: a table, a file of JSON, and 0 only if all of it held."""

import argparse
import fnmatch
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gan_runner.config.errors import ConfigError
from gan_runner.storage.atomic_files import json_safe, write_bytes
from gan_runner.training.build import choose_device
from tests.gpu.child import PARTS
from tests.gpu.jobs import REPOSITORY, Job, Outcome, Running
from tests.gpu.timings import KERNELS

MINUTES = 8.0  # that a part may take
AT_ONCE = 8  # processes of a part whose times do not matter
LIMITS = {"correctness": 180.0, "shell": 300.0, "timings": 150.0}  # seconds of one process


def jobs(part: str, device: str, pattern: str) -> list[Job]:
    """The processes of a part, a check each."""
    names = [name for name in PARTS[part]() if fnmatch.fnmatch(name, pattern)]
    return [Job(name, [sys.executable, "-m", "tests.gpu.child", name, device], limit=LIMITS[part]) for name in names]


def processes_at_once(part: str) -> int:
    """How many processes of a part share the GPU: what is timed has it for itself."""
    return 1 if part == "timings" else max(1, min(AT_ONCE, (os.cpu_count() or 1) // 2))


def main(arguments: list[str] | None = None, make_jobs: Callable[[str, str, str], list[Job]] = jobs) -> int:
    """0 if all held, 1 if something did not, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu tries the command itself")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of JSON (default: outputs/gpu/DATE-TIME.json)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="checks of these names, such as '*resnet*'")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that a part may take (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        choose_device(options.device)
    except ConfigError as error:
        reason = str(error) if torch.cuda.is_available() else "PyTorch finds no GPU here"
        print(f"make gpu: {reason}", file=sys.stderr)
        return 2
    out = (options.out or REPOSITORY / time.strftime("outputs/gpu/%Y-%m-%d-%H-%M-%S.json")).absolute()
    logs = out.with_suffix("")
    logs.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    report: dict[str, Any] = {"machine": machine(options.device), "held": False, "parts": {}}
    console.print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), markup=False)
    found: list[Outcome] = []
    for part in options.parts or PARTS:
        running = Running(logs, processes_at_once(part), 60 * options.minutes)
        noted = partial(note, report["parts"].setdefault(part, {}), partial(write, out, report), console)
        mine = running.outcomes(make_jobs(part, options.device, options.only), noted)
        found += mine
        if part == "timings":
            print_timings(mine, console)
    report["held"] = bool(found) and all(outcome.status == "held" for outcome in found)
    write(out, report)
    print_summary(found, console)
    console.print(f"{out}; what the processes printed: {logs}", markup=False)
    return 0 if report["held"] else 1


def note(checks: dict[str, Any], save: Callable[[], None], console: Console, outcome: Outcome) -> None:
    """Write down and print what became of one check, as soon as it is known."""
    checks[outcome.name] = outcome.plain()
    save()
    console.print(line(outcome), markup=False)


def machine(device: str) -> dict[str, str]:
    """What the numbers were found on."""
    name = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") else platform.processor()
    versions = {"torch": torch.__version__, "CUDA": str(torch.version.cuda), "Python": platform.python_version()}
    return {"device": name or device, "cores": str(os.cpu_count()), **versions}


def write(path: Path, report: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(json_safe(report), indent=1) + "\n").encode())


def line(outcome: Outcome) -> str:
    """One check, as it ends."""
    said = "".join(f"\n    {text}" for text in (*outcome.reasons, *(f"note: {note}" for note in outcome.notes)))
    numbers = ", ".join(f"{key} {short(value)}" for key, value in outcome.values.items() if not isinstance(value, dict))
    return f"{outcome.status:<11} {outcome.seconds:6.1f} s  {outcome.name}  {numbers}{said}"


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_timings(outcomes: list[Outcome], console: Console) -> None:
    """A line for each row, arithmetic and contestant, and the longest kernels of the runner's steps."""
    table = Table("timings", "ms", "of bare", "busy", "kernels", "peak MiB", box=None, header_style="bold")
    for outcome in outcomes:
        bare = outcome.values.get("bare", {}).get("milliseconds")
        for contestant, values in outcome.values.items():
            ratio = f"{values['milliseconds'] / bare:.2f}" if bare else "-"
            table.add_row(
                f"{outcome.name.partition('/')[2]}, {contestant}", f"{values['milliseconds']:.3f}", ratio,
                f"{values['busy']:.0%}", f"{values['kernels of a step']:.0f}", f"{values['peak MiB']:.0f}",
            )  # fmt: skip
    console.print(table)
    for outcome in outcomes:
        if longest := outcome.values.get("eager", {}).get("longest kernels"):
            kernels = Table(f"{outcome.name}: {KERNELS} longest kernels", "times", "us a step", box=None)
            for each in longest:
                kernels.add_row(each["name"][:100], f"{each['count']:.0f}", f"{each['microseconds']:.0f}")
            console.print(kernels)


def print_summary(outcomes: list[Outcome], console: Console) -> None:
    """How many held, and what did not."""
    table = Table("did not hold", "", "why", box=None, header_style="bold")
    wrong = [outcome for outcome in outcomes if outcome.status != "held"]
    for outcome in wrong:
        table.add_row(outcome.name, outcome.status, outcome.reasons[0] if outcome.reasons else "")
    if wrong:
        console.print(table)
    console.print(f"{len(outcomes) - len(wrong)} of {len(outcomes)} checks held", markup=False)


if __name__ == "__main__":
    sys.exit(main())
