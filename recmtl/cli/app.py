"""`recmtl`: the group of commands, and how an error ends it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from recmtl import __version__
from recmtl._extras import naming_the_extra
from recmtl._files import in_words
from recmtl.errors import RecMTLError

__all__ = ["INTERRUPTED", "emit", "main"]

_COMMANDS = {
    "init": "Guess a first spec from a log.",
    "simulate": "Write a click funnel whose truth is known.",
    "doctor": "Check a spec and its data; change nothing.",
    "train": "Train a model from a spec.",
    "eval": "Metrics of a run on labelled data.",
    "score": "Score a log: Parquet or CSV in, Parquet out.",
    "export": "Write a run as something that can be served, with a certificate.",
    "verify": "Check an export: every byte of it, and what it says.",
    "explain": "What each feature of one row does to its predictions.",
    "report": "One HTML page about a run.",
    "diff": "Two runs on the same rows, with intervals.",
    "parity": "Which feature a server reads differently, from its log.",
    "compare": "Towers side by side, with intervals.",
    "tune": "Better values of a spec's keys, by trying them.",
    "backtest": "Score a day, train on it, and so on.",
}
INTERRUPTED = 130


class _LazyGroup(click.Group):
    """A group that imports a command's file only when it is called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"recmtl.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from recmtl._checks import suggest

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"There is no command `{args[0]}`.{suggest(args[0], _COMMANDS)}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def _cli() -> None:
    """Train, evaluate and score multi-task ranking models (CTR, CVR, ...) on click logs."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with 0, 1, 2, 3, 4, 5 or 130, as the outcome calls for."""
    # FBGEMM's backward on CPU collapses beside any other process unless idle threads sleep; read
    # when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Arrow's other pools keep what they once had; read when pyarrow loads.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = sys.argv[1:] if args is None else args
    try:
        with naming_the_extra(f"`recmtl {' '.join(arguments[:1])}`"):
            code = _cli.main(arguments, prog_name="recmtl", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show(file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("recmtl: interrupted; the same command goes on from here.", err=True)
        sys.exit(INTERRUPTED)
    except RecMTLError as error:
        _fail(error, f"{type(error).__name__}: {error}", error.exit_code, arguments)
    except OSError as error:
        _fail(error, in_words(error), 1, arguments)
    except Exception as error:  # the last line of defence: no traceback unless asked for
        _fail(
            error,
            f"{type(error).__name__}: {error}\nThis is a bug in recmtl; `--debug` shows where.",
            1,
            arguments,
        )


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data`: where the files of a spec are."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Folder of the data (default: that of SPEC).",
    )(command)


def calibrated_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--uncalibrated`: what the network says, without the calibrators of the run."""
    return click.option(
        "--uncalibrated",
        "calibrated",
        flag_value=False,
        default=True,
        help="Leave the run's calibrators out.",
    )(command)


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--debug`: show the traceback of an error."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: one object on stdout and nothing else."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
    )(command)


def emit(value: dict[str, Any] | list[Any], *, as_json: bool, text: str) -> None:
    """Print the outcome: as JSON, or in words."""
    click.echo(json.dumps(value, allow_nan=False) if as_json else text)


def _fail(error: BaseException, message: str, code: int, arguments: list[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exception(error, file=sys.stderr)
    else:
        click.echo(message, err=True)
    sys.exit(code)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
