"""`python -m tests.benchmarks`: tables of ratios."""

import argparse
import subprocess
import sys
import tempfile

from tests.benchmarks.endurance import endurance
from tests.benchmarks.memory import memory
from tests.benchmarks.processes import processes
from tests.benchmarks.speed import MODELS, speed
from tests.benchmarks.timing import medians

NAMES = ("startup", "speed", "memory", "processes", "endurance")


def startup(rounds: int) -> None:
    """The command line against bare imports."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:

        def run(*words: str) -> object:
            return subprocess.run(words, cwd=folder, check=True, capture_output=True)

        runner = (python, "-m", "gan_runner")
        found = medians(
            {
                "import hydra": lambda: run(python, "-c", "import hydra"),
                "gan-runner --help": lambda: run(*runner, "--help"),
                "gan-runner --cfg job": lambda: run(*runner, "--cfg", "job"),
                "import hydra, torch, torch._dynamo": lambda: run(python, "-c", "import hydra, torch, torch._dynamo"),
                "gan-runner steps=1": lambda: run(*runner, "steps=1"),
            },
            rounds,
        )
    print("\nFrom the shell")
    table(found, "import hydra")


def table(found: dict[str, float], base: str) -> None:
    for name, seconds in found.items():
        print(
            f"  {name:<36} {seconds:8.3f} s   {seconds - found[base]:+8.3f} s   {seconds / found[base]:6.3f} x {base}"
        )


def main() -> int:
    """The parts that are asked for; 1 where a run was not flat."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000, help="of endurance")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="of speed; by default mlp, dcgan and resnet")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"{', '.join(NAMES)}; all but endurance")
    options = parser.parse_intermixed_args()
    names = options.names or NAMES[:-1]
    if "startup" in names:
        startup(options.rounds)
    if "speed" in names:
        speed(options.rounds, options.device, options.models)
    if "memory" in names:
        memory(min(3, options.rounds), options.device)
    if "processes" in names:
        processes(options.rounds)
    if "endurance" in names:
        return 0 if endurance(options.steps, [f"device={options.device}"]).is_flat else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
