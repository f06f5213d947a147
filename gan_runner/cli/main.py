"""The command line: Hydra for runs, verbs for what acts on a run directory, and one short message for each error.

Neither torch nor numpy is imported here before a run starts, so that --help, --cfg and completion answer at once.
"""

import argparse
import importlib
import os
import re
import shlex
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gan_runner import __version__
from gan_runner.cli.help import show_help
from gan_runner.cli.parser import PARSERS
from gan_runner.config import words
from gan_runner.config.compose import VERSION_BASE, refuse_words_of_sweeps, settle_run, trusted_packages
from gan_runner.config.errors import ConfigError, TrainingFailed, suggest
from gan_runner.config.explain import Refused, explain, explain_unreadable, one_line
from gan_runner.config.process_rank import launched_process
from gan_runner.config.schema import GROUPS, conf_directory, known_keys

REFUSED = {
    "-cfg": "experiment=NAME takes a file of settings, and --config-dir FOLDER has your own in FOLDER/experiment",
    "-metrics": "'metric=[inception_score,frechet,prdc]' features=inception measures by these",
    "--experimental-rerun": "it reads a pickle, which can run any code",
    "hydra.output_subdir": "the run writes its own .hydra/",
    "hydra/job_logging": "the run writes its own gan_runner.log",
}
VERBS = {  # verb -> module with main(arguments), imported when it is called
    "sample": "gan_runner.cli.sample",
    "evaluate": "gan_runner.cli.evaluate",
    "resume": "gan_runner.cli.resume",
    "export": "gan_runner.cli.export",
    "report": "gan_runner.cli.report",
    "list": "gan_runner.cli.list",
}


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # OpenMP threads wait for each other by spinning. Where another program holds a core, its default count made a step
    # 10 times slower than one thread alone; with this one it costs 3 % on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, instead of printing them its way
    process = launched_process(os.environ)
    try:
        if process and trains(arguments):
            from gan_runner.training.processes import awaited, follow

            if process.rank > 0:
                follow()
            with awaited(process):
                obey(arguments, wants_traceback)
        elif not process or process.rank == 0:
            obey(arguments, wants_traceback)
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has gone away; this is what Python's documentation of SIGPIPE advises
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def obey(arguments: list[str], wants_traceback: bool) -> None:
    """Do what the words say. Raises SystemExit, with one line on standard error, where that cannot be."""
    if any(word.startswith("trust=") for word in arguments):
        sys.path.append(os.getcwd())  # a user's own package, as with `python -m`; behind all that is installed
    if "--version" in arguments:
        print(f"gan-runner {__version__}")
        return
    try:
        if "COMP_LINE" in os.environ and complete_verbs(os.environ["COMP_LINE"].split(" ")[1:]):
            return
        if {"--help", "-h"} & set(arguments) and not (arguments and arguments[0] in VERBS):
            print_help(arguments)
        elif arguments and re.fullmatch(r"\w[\w.-]*", arguments[0]):
            run_verb(arguments[0], arguments[1:])
        else:
            if (process := launched_process(os.environ)) and {"-m", "--multirun"} & set(arguments):
                raise ConfigError(
                    f"-m: {process.world_size} processes train one run; each run of a sweep may have devices=N"
                )
            sys.argv[1:] = check_flags(arguments)
            run()
    except BrokenPipeError:
        raise
    except TrainingFailed as failure:  # no mistake in the words: the traceback is the message
        traceback.print_exception(failure.__cause__)
        raise SystemExit(1) from None
    except (Refused, Exception) as error:
        if wants_traceback:
            raise
        if "COMP_LINE" in os.environ:  # a shell that completes a word wants no message
            raise SystemExit(1) from None
        print(f"gan-runner: {one_line(explain(error, arguments))}", file=sys.stderr)
        raise SystemExit(1) from None


def trains(arguments: list[str]) -> bool:
    """Whether these words are about a run that several processes would train."""
    flags = {word for word in arguments if word.startswith("-")} - {"--config-dir", "-cd", "--any-version"}
    verb = arguments[0] if arguments and arguments[0] in VERBS else "resume"
    return verb == "resume" and not flags


def run_verb(verb: str, arguments: list[str]) -> None:
    """`gan-runner VERB ...`."""
    if verb not in VERBS:
        if verb.partition(".")[0] in (*known_keys(), *GROUPS):
            raise ConfigError(f"{verb}: a setting wants a value: {verb}=VALUE")
        if verb in words.VERBS:
            raise ConfigError(f"{verb}: no such verb; type {words.VERBS[verb]} {shlex.join(arguments)}".rstrip())
        verbs = f"verbs: {', '.join(VERBS)}; a setting is key=value"
        raise ConfigError(f"{verb}: no such verb{suggest(verb, VERBS)} ({verbs})")
    if verb in PARSERS:  # --help and mistakes, before torch is imported
        PARSERS[verb]().parse_intermixed_args(arguments)
    importlib.import_module(VERBS[verb]).main(arguments)


def print_help(arguments: list[str]) -> None:
    """`gan-runner --help [WORD ...]`; a verb among the words has a page of its own."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    flags.add_argument("--help", "-h", action="store_true")
    flags.add_argument("--config-dir", "-cd", type=Path)
    try:
        options, words = flags.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; gan-runner --help WORD says what a word is") from None
    if verbs := [word for word in words if word in VERBS]:
        run_verb(verbs[0], ["--help"])
    show_help([word for word in words if not word.startswith("-")], options.config_dir)


def complete_verbs(typed: list[str]) -> bool:
    """Print what may follow the words typed so far, for a shell; whether that is all, and Hydra knows no more.

    After a verb come its flags, or what the shell itself completes: directories.
    """
    if len(typed) > 1 and typed[0] in VERBS:
        parser = PARSERS[typed[0]]() if typed[0] in PARSERS else importlib.import_module(VERBS[typed[0]]).parser()
        print("\n".join(flag for flag in parser._option_string_actions if typed[-1].startswith("-")))
        return True
    if len(typed) == 1:
        print("\n".join(verb for verb in VERBS if verb.startswith(typed[0])))
    return False


def check_flags(arguments: list[str]) -> list[str]:
    """The arguments, flags first: the argparse of Hydra 1.3 takes no setting between two flags.

    Raises ConfigError where argparse would answer with a page of usage, as it does for settings with dashes.
    """
    for argument in arguments:
        word = argument.split("=")[0]
        if word in REFUSED and argument not in ("hydra.output_subdir=null", "hydra/job_logging=none"):
            raise ConfigError(f"{word}: not here: {REFUSED[word]}")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; gan-runner --hydra-help lists the flags")

    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = refuse  # type: ignore[method-assign]
    found, unknown = parser.parse_known_intermixed_args(arguments)
    for argument in unknown:
        setting = argument.lstrip("-").replace("-", "_")
        if "=" in argument or setting in (*known_keys(), *GROUPS):
            raise ConfigError(f"{argument}: no such flag; a setting has no dashes: {setting.split('=')[0]}=VALUE")
        flags = re.findall(r"--[\w-]+", parser.format_usage())
        raise ConfigError(f"{argument}: no such flag{suggest(argument, flags)}")
    if found.multirun and (found.cfg or found.info):
        raise ConfigError(f"--{'cfg' if found.cfg else 'info'} shows one job: leave out -m")
    for word in found.overrides:
        if "=" not in word and not word.startswith("~"):  # nor may it be one with the value of a flag
            raise ConfigError(explain_unreadable(word))
    return [word for word in arguments if word not in found.overrides] + found.overrides


# --- a run ------------------------------------------------------------------------------------------------------------


@hydra.main(config_path=str(conf_directory()), config_name="config", **VERSION_BASE)
def run(config: DictConfig) -> float | None:
    """Train one run, in the directory that Hydra made for it; the best value of the objective is returned."""
    hydra_config = HydraConfig.get()
    path = Path(hydra_config.runtime.output_dir)
    try:
        refuse_words_of_sweeps(hydra_config, sys.argv[1:])
        composed = settle_run(config, hydra_config, path)
        from gan_runner.training.run import start

        return start(composed, trusted_packages(sys.argv[1:]), path)
    except (TrainingFailed, BrokenPipeError):
        raise
    except Exception as error:
        raise Refused(explain(error, [])) from error
    finally:
        if not any(word.startswith(("hydra.run", "hydra.sweep")) for word in hydra_config.overrides.hydra):
            remove_empty(path)  # but a directory of the user's choice may have been there before


def remove_empty(path: Path) -> None:
    """The directory that Hydra made for a run that never began, and those above it, as far as they are empty."""
    while path.is_dir() and path != Path.cwd() and not any(path.iterdir()):
        path.rmdir()
        path = path.parent


# --- errors -----------------------------------------------------------------------------------------------------------
