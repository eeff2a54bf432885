"""`whorl VERB [CONFIG.toml] [--section.key value]`.

To add a verb: write `whorl/cli/<name>.py` with one click command called `command` (for a group of
verbs, `@click.group()` likewise), import its room's function *inside* the command, call it, and let
errors pass; then name it in `VERBS` below with its line of help. A verb that takes a configuration
says `@click.command(cls=ConfigCommand, model="whorl.train.config:TrainConfig")` and gets `overrides`
beside its own options: hand them on, `load_config(TrainConfig, path, overrides)`. Data goes to stdout
(`--json` where it is data: `click.echo(json.dumps(...))`), everything for people to stderr (`say`).
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import whorl
from whorl.base.collector import end_at_once
from whorl.base.errors import DataError, InputError, WhorlError
from whorl.base.progress import printable

# verb → (module that holds `command`, or "module:its name"; its line of help): `whorl --help` imports
# none of them.
VERBS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "whorl.cli.quickstart",
        "Run the whole loop on this machine: data, training, chat, figures.",
    ),
    "data": ("whorl.cli.data", "Turn raw files into documents and tokens: run, tokenize, inspect."),
    "tokenizer": ("whorl.cli.tokenizer", "Train a tokenizer."),
    "train": ("whorl.cli.train", "Pre-train a model."),
    "sft": ("whorl.cli.sft", "Train a model on conversations."),
    "dpo": ("whorl.cli.dpo", "Train a model on preferences."),
    "generate": ("whorl.cli.generate", "Generate text from a prompt."),
    "chat": ("whorl.cli.chat", "Talk to a model in the terminal."),
    "eval": ("whorl.cli.eval", "Measure how good a model is at tasks."),
    "arena": (
        "whorl.cli.arena",
        "Rank models by votes: rank, board, simulate, verify, export, people.",
    ),
    "judge": ("whorl.cli.judge", "Compare or score models with a judge model."),
    "serve": ("whorl.cli.serve", "Serve models through the OpenAI API."),
    "studio": ("whorl.cli.studio", "Web UI: chat, arena, leaderboard, runs, data."),
    "model": ("whorl.cli.model", "Model directories: export, merge, quantize, info, pull."),
    "runs": ("whorl.cli.runs", "Look at past runs: list, show, report; trace a reply back."),
    "backup": ("whorl.cli.backup", "Back up votes and run records, then verify the copy."),
    "restore": ("whorl.cli.backup:restore", "Restore a backup into an empty workspace."),
    "doctor": (
        "whorl.cli.doctor",
        "Check what this machine has, what works, and how to get what is missing.",
    ),
}


class Verbs(click.Group):
    """A group whose verbs are imported when they are called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, _, function = VERBS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function or "command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from whorl.base.fields import nearest  # only where something was mistyped: it costs 50 ms

            raise InputError(f"unknown verb {args[0]!r}{nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(
    cls=Verbs,
    epilog="User errors print one line and exit with code 2. Documentation: README.md, docs/architecture.md.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(whorl.__version__, prog_name="whorl")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (also WHORL_DEBUG=1).")
def whorl_command(debug: bool) -> None:
    """From raw files to a trained multimodal chat assistant."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point: run a verb, turn errors into one line and an exit code.

    0 done · 2 the user's or the data's mistake · 1 the machine's fault · 130 interrupted.
    """
    end_at_once()
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Taken here so that it works before and after the verb.
    debug = "--debug" in words or os.environ.get("WHORL_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        code = whorl_command.main(args=words, prog_name="whorl", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.Abort:
        code = interrupted()
    except KeyboardInterrupt:
        code = interrupted()
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a verb: its help is the remedy
        print(error.format_message(), file=sys.stderr)
        code = error.exit_code
    except click.UsageError as error:
        code = usage(error)
    except click.ClickException as error:
        code = complain(error.format_message(), error.exit_code)
    except WhorlError as error:
        if debug:
            raise
        code = complain(str(error), 2 if isinstance(error, InputError | DataError) else 1)
    except OSError as error:
        if debug or (line := disk_fault(error)) is None:
            raise
        code = complain(line, 1)
    except ModuleNotFoundError as error:
        if debug or (line := missing_library(error)) is None:
            raise
        code = complain(line, 2)
    sys.exit(code if isinstance(code, int) else 0)


def complain(text: str, code: int) -> int:
    """One line on stderr, whatever is in `text`."""
    line = printable(" ".join(text.split()))
    print(f"whorl: {line}", file=sys.stderr)
    return code


def usage(error: click.UsageError) -> int:
    where = error.ctx.command_path if error.ctx else "whorl"
    return complain(f"{error.format_message().rstrip('.?')}; see {where} --help", 2)


def interrupted() -> int:
    print("whorl: interrupted", file=sys.stderr)
    return 130


# What a disk says when it takes no more, and what a person does then.
DISK_FAULTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "give a writable folder",
    errno.EACCES: "give a folder you have write access to",
    errno.EIO: "check the disk",
}


def disk_fault(error: OSError) -> str | None:
    """A full or read-only disk in one line; None where the error is another."""
    if error.errno not in DISK_FAULTS:
        return None
    place = f"{error.filename}: " if error.filename else ""
    said = error.strerror or "the disk is failing"
    return f"{place}{said}; {DISK_FAULTS[error.errno]} and run the command again: finished work is kept"


def missing_library(error: ModuleNotFoundError) -> str | None:
    """Which extra brings a library that is not installed; None where it is a bug of ours."""
    from whorl.cli.libraries import LIBRARIES

    name = (error.name or "").partition(".")[0]
    if name not in LIBRARIES:
        return None
    extra = LIBRARIES[name].extra
    return f"{name} is required but not installed; run: pip install 'whorl[{extra}]'"
