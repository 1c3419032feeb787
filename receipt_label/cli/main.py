"""receipt-usage: what was called, how many tokens it took, and what it cost.

This module is the front door: it finds the command, and turns whatever goes wrong into one clear
line and an exit code. A command's module loads when it is called, so that ``--help`` is quick.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

import click

from receipt_dynamo import UsageError, __version__
from receipt_label.cli.output import clean, note

__all__ = ["main"]

EXIT_FAULT = 1
EXIT_INTERRUPTED = 130


class _Lazy(NamedTuple):
    module: str
    help: str


_COMMANDS = {
    "import": _Lazy("import_files", "Record the calls of files of replies (JSON lines)."),
    "report": _Lazy("report", "Show calls, tokens and cost by day, model, job, ..."),
    "export": _Lazy("export", "Print every recorded call, as JSON lines or CSV."),
    "health": _Lazy("health", "Show how recording and delivery stand: ok, warning, critical."),
    "ship": _Lazy("ship", "Deliver what waits in the spool, once or with --follow."),
    "dead": _Lazy("dead", "List, retry or drop records that the store would not take."),
    "table": _Lazy("table", "Create, describe or check the DynamoDB table."),
    "prices": _Lazy("prices", "Show what a model costs, and where the price is from."),
    "doctor": _Lazy("doctor", "Check versions, directory, settings, store and prices."),
    "log": _Lazy("log", "Record one use of a tool, skill or subagent, or one action."),
    "stress": _Lazy("stress", "Try this library and others on a store that has a bad day."),
}


class _Commands(click.Group):
    """The commands, each loaded when it is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        lazy = _COMMANDS.get(name)
        if lazy is None:
            return None
        command: click.Command = import_module(f"receipt_label.cli.{lazy.module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}. Allowed: {', '.join(_COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in _COMMANDS.items()])


@click.group(
    name="receipt-usage",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Data goes to standard output, everything else to standard error. Exit code 0: fine, "
        "1: a fault, 2: wrong usage. RECEIPT_USAGE_DIR says where the records lie."
    ),
)
@click.version_option(__version__, message="receipt-usage %(version)s")
def cli() -> None:
    """Track what AI services are called for, how many tokens they take, and what they cost."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. Prints no traceback for a fault of the user's.

    Interrupted at whatever point, it says so and returns 130.
    """
    try:
        return _run_and_flush(sys.argv[1:] if args is None else list(args))
    except KeyboardInterrupt:
        note("interrupted")
        return EXIT_INTERRUPTED


def _run_and_flush(args: list[str]) -> int:
    if sys.stdout is None:  # closed by the shell: >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever the terminal can show
    with _logging_to_stderr():
        try:
            code = _run(args)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough (| head)
            _discard_output()
            return 0
        except OSError as error:
            _discard_output()
            note(f"error: the output cannot be written: {_one_line(error)}")
            return EXIT_FAULT
    return code


def _run(args: list[str]) -> int:
    try:
        # Not cli.main(): it makes a broken pipe a fault.
        with cli.make_context("receipt-usage", args) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as leaving:  # --help, --version
        return leaving.exit_code
    except click.UsageError as error:
        _show_usage_error(error)
        return error.exit_code
    except click.ClickException as error:
        note(f"error: {error.format_message()}")
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except (UsageError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise  # of the output: files that are read have a name, or an error of their own
        note(f"error: {_one_line(error)}")
        return EXIT_FAULT
    return code if isinstance(code, int) else 0


def _show_usage_error(error: click.UsageError) -> None:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        print(error.format_message(), file=sys.stderr)  # the help itself
        return
    path = error.ctx.command_path if error.ctx is not None else "receipt-usage"
    note(f"error: {error.format_message().removesuffix('.')}. See: {path} --help")


def _discard_output() -> None:
    """Let what is still buffered go nowhere: the interpreter would write it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class _OneLine(logging.Formatter):
    """A log record as one line, without its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Show warnings of the libraries on standard error for as long as a command runs."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_OneLine())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
