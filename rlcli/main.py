"""The entry point `rl`: which subcommand, how it ends, what a user sees of an error.

Only the module of the subcommand that is named is imported, so help is instant.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from rlcli import __version__, console
from rlcli.errors import (
    CorruptError,
    ExitCode,
    InputError,
    ResourceError,
    RLError,
    UsageError,
    nearest,
    nearest_option,
)

# name -> (module, one line of help). A module offers `register(app, arguments)`, which adds its command.
COMMANDS = {
    "collect": ("rlcli.commands.collect", "Run a policy in an environment and write a dataset."),
    "buffer": ("rlcli.commands.buffer", "Look at, check, measure, cut and join datasets."),
    "train": ("rlcli.commands.train", "Train an algorithm online or from a dataset."),
    "eval": ("rlcli.commands.eval", "Evaluate a run: seeded episodes, IQM with interval, gates."),
    "convert": ("rlcli.commands.convert", "Convert foreign formats to datasets and back."),
    "bench": ("rlcli.commands.bench", "Measure speed against peers and physical limits."),
    "show": ("rlcli.commands.show", "Print what any artifact is and where it came from."),
    "algo": ("rlcli.commands.algo", "List algorithms and their options."),
}

_RESOURCE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EFBIG,
    errno.EIO, errno.ESTALE, errno.ENOLCK,  # a device or a server that fails
}  # fmt: skip
_PATH_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PATH_ERRNOS = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


def build_app(wanted: str | None, arguments: list[str]) -> typer.Typer:
    """The command tree in which `wanted` is complete and the other commands are names with a line of help.

    None makes all of them complete, which shell completion needs.
    """
    app = typer.Typer(
        name="rl",
        help="Reinforcement learning as shell commands over one trusted dataset format.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        pass

    for name, (module, help_line) in COMMANDS.items():
        if wanted is None or wanted == name:
            importlib.import_module(module).register(app, arguments)
        else:
            app.command(name, help=help_line)(_placeholder)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run `rl` and exit the process with a documented code (`rlcli.errors.ExitCode`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a ?
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one `rl` command line and return its exit code; errors are printed as one line."""
    if not arguments:
        arguments = ["--help"]
    if arguments[0] == "--version":
        print(f"rl {__version__}")
        return ExitCode.OK
    completing = any(name.endswith("_COMPLETE") and name.startswith("_RL") for name in os.environ)
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    console.configure(json="--json" in arguments)
    try:
        for word in arguments:
            if any("\udc80" <= letter <= "\udcff" for letter in word):  # how a byte that is no text is passed
                raise UsageError(f"{word!r} is not UTF-8, which names and paths must be")
        if wanted and wanted not in COMMANDS and not completing:
            raise UsageError(f"there is no command {wanted!r}; {nearest(wanted, COMMANDS)}")
        app = build_app(None if completing else wanted, arguments)
        if wanted and not {"-h", "--help"} & set(arguments):
            _explain_bus_errors()
        outcome = app(args=arguments, prog_name="rl", standalone_mode=False)
        if outcome == ExitCode.INTERRUPTED:  # the parser turns Ctrl-C into this
            print("interrupted", file=sys.stderr)
        return int(outcome or 0)
    except RLError as err:
        console.error(err)
        return int(err.code)
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as err:
        if isinstance(err.__context__, BrokenPipeError):  # the parser turns a closed pipe into exit 1
            return _closed_pipe()
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except MemoryError:
        console.error(ResourceError("out of memory"))
        return ExitCode.RESOURCE
    except OSError as err:
        return _os_error(err)
    except typer.TyperException as err:
        if type(err).__name__ == "NoArgsIsHelpError":  # the message is the help page
            print(err, file=sys.stderr)
        else:
            console.error(UsageError(_no_such_option(err) or _sentence(err)))
        return ExitCode.USAGE
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except RuntimeError as err:
        if "can't allocate memory" not in str(err):
            return _bug(err)
        console.error(ResourceError("out of memory"))  # torch's way to say so
        return ExitCode.RESOURCE
    except Exception as err:  # noqa: BLE001 - the last line of defence: a bug becomes a report, not a wall of text
        return _bug(err)


def _explain_bus_errors() -> None:
    """A mapped file that fails under us, which no exception tells, ends in one line and its code, too."""
    from rlcli import _native  # takes 4 ms

    cut = CorruptError("FILE was cut short while it was read", path="FILE")
    failed = ResourceError("FILE: a part of it cannot be had; its disk is full or fails", path="FILE")
    lines = [f"{console.error_text(err)}\n".split("FILE") for err in (cut, failed)]
    _native.explain_bus_errors(lines[0], cut.code, lines[1], failed.code)


def _closed_pipe() -> int:
    """128 + SIGPIPE, quietly: the reader, say `head`, has what it wanted."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _os_error(err: OSError) -> int:
    where = f"{err.filename}: " if err.filename else ""
    reason = err.strerror or str(err)
    if err.errno in _RESOURCE_ERRNOS:
        console.error(ResourceError(f"{where}{reason}", path=err.filename))
        return ExitCode.RESOURCE
    if isinstance(err, _PATH_ERRORS) or err.errno in _PATH_ERRNOS:
        longer = "the name of an output is up to 76 bytes longer while it is made"
        hint = longer if err.errno == errno.ENAMETOOLONG else None
        console.error(InputError(f"{where}{reason}", hint=hint, path=err.filename))
        return ExitCode.INPUT
    return _bug(err)


def _bug(err: Exception) -> int:
    if _was_interrupted(err):
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if os.environ.get("RL_TRACEBACK"):
        raise err
    with tempfile.NamedTemporaryFile(
        "w", prefix="rl-bug-", suffix=".txt", delete=False, errors="replace"
    ) as report:
        report.write(f"rl {__version__}: {' '.join(sys.argv[1:])}\n\n")
        report.write("".join(traceback.format_exception(err)))
    message = f"this is a bug in rl: {type(err).__name__}: {err}"
    console.error(RLError(message, hint=f"please report it with {report.name}", path=report.name))
    return ExitCode.BUG


def _was_interrupted(err: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: native modules that it reaches say that they cannot be imported."""
    while err is not None and not isinstance(err, KeyboardInterrupt):
        err = err.__cause__ or err.__context__
    return err is not None


def _sentence(err: Exception) -> str:
    describe = getattr(err, "format_message", None)
    text = str(describe() if describe is not None else err)
    return text[:1].lower() + text[1:].rstrip(".")


def _no_such_option(err: Exception) -> str | None:
    """What to say of an option that the command lacks; None for any other mistake."""
    if type(err).__name__ != "NoSuchOption":
        return None
    flag, context = err.option_name, err.ctx  # type: ignore[attr-defined]
    shown = [param for param in context.command.params if not getattr(param, "hidden", False)]
    flags = [flag for param in shown for flag in param.opts if flag.startswith("--")]
    known = {flag[2:].replace("-", "_"): flag for flag in flags}
    meant = nearest_option(flag.strip("-").replace("-", "_"), known)
    proposal = f"did you mean {known[meant]}?" if meant else f"{context.command_path} --help lists them"
    return f"no such option: {flag}; {proposal}"


def _placeholder() -> None:
    """Stands in for a command whose module was not asked for; never runs."""
    raise AssertionError("a command that was not named was run")
