"""`rl train ALGO`: one subcommand per algorithm; its flags are the fields of two config dataclasses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlcli import console
from rlcli.algorithms import ALGORITHMS, load
from rlcli.config import Option, options, parse_value, read_scope, resolve_sections, to_dict
from rlcli.errors import UsageError
from rlcli.pipeline.settings import Settings

TRAIN_HELP = "Train an algorithm online (--env) or from datasets (--from-dataset)."


_ONLY = {  # options of one source
    "online": ("env", "steps"),
    "dataset": ("from_dataset", "updates", "follow", "min_rows", "samples_per_insert", "wait_seconds"),
}
SCOPES = ("sampler",)


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl train` with a command per built-in algorithm, and one for the user's own if it is named."""
    _repeat_flag(arguments)
    group = typer.Typer(help=TRAIN_HELP, no_args_is_help=True, rich_markup_mode=None)
    named = next((word for word in arguments[1:] if not word.startswith("-")), "")
    if named and Path(named, "run.json").is_file():
        raise UsageError(
            f"{named} is a run, not an algorithm", hint=f"rl train ALGO --resume -o {named} goes on with it"
        )
    names = [*ALGORITHMS] if named in ("", *ALGORITHMS) else [*ALGORITHMS, named]
    for name in names:
        module = load(name)
        group.command(name, help=_help(name, module), short_help=_title(module))(_command(name, module))
    app.add_typer(group, name="train", help=TRAIN_HELP)


def _repeat_flag(arguments: list[str]) -> None:
    """Make `--from-dataset a:0.7 b:0.3` the repeated flag that it stands for, in place."""
    words: list[str] = []
    listing = False  # among the words behind the flag's own value
    for before, word in zip(["", *arguments], arguments, strict=False):
        if listing and not word.startswith("-"):
            words.append("--from-dataset")
        else:
            listing = before == "--from-dataset" or word.startswith("--from-dataset=")
        words.append(word)
    arguments[:] = words


def _title(module: Any) -> str:
    """What the algorithm is, without who made it: it must fit beside its name."""
    return (module.Config.__doc__ or "").partition("\n")[0].partition(" (")[0].rstrip(".") + "."


def _help(name: str, module: Any) -> str:
    summary = (module.Config.__doc__ or name).splitlines()[0]
    sources = {"online": "--env", "dataset": "--from-dataset"}
    ways = " or ".join(sources[source] for source in module.SOURCES)
    return f"{summary}\n\nLearns from {ways}. Prints the run directory."


def _command(name: str, module: Any) -> Callable[..., None]:
    """A function whose signature has one parameter per option, so that typer makes the flags."""
    fixed = inspect.signature(_fixed, eval_str=True).parameters
    sections = {"run": Settings, name: module.Config}

    def command(**values: Any) -> None:
        json, quiet = values.pop("json"), values.pop("quiet")
        console.configure(json=json, quiet=quiet)
        out, resume, file, sets = (values.pop(key) for key in ("out", "resume", "config", "set_"))
        flags = {key: _given(value) for key, value in values.items()}
        resolved = resolve_sections(sections, file=file, sets=sets or (), flags=flags, scopes=SCOPES)
        sampler = read_scope("sampler", file=file, sets=sets or ())
        given = {key for key, value in flags.items() if value is not None}
        given |= {item.partition("=")[0].strip().replace("-", "_") for item in sets or ()}
        if file is not None and resume:
            raise UsageError("--resume takes the options that the run was started with; leave --config out")
        from rlcli.pipeline.train import train

        outcome = train(
            name, resolved["run"], resolved[name], sampler=sampler, out=out, resume=resume, given=given
        )
        console.result("run", outcome, str(outcome["path"]))

    unfit = {flag for source, names in _ONLY.items() if source not in module.SOURCES for flag in names}
    unfit |= {"sampler"} if module.ON_POLICY else set()
    flags = [
        _parameter(option, default, hidden=option.name in unfit)
        for config in sections.values()
        for option, default in _defaults(config)
    ]
    command.__signature__ = inspect.Signature([*fixed.values(), *flags])  # type: ignore[attr-defined]
    command.__name__ = name
    return command


def _fixed(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="RUN", help="The run directory to make. [default: runs/…]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run at --out exactly; start it if absent.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Options from a TOML file.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One option; repeatable.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """The flags that are not options of a config."""


def _defaults(config: type[Any]) -> list[tuple[Option, Any]]:
    values = to_dict(config())
    return [(option, values[option.name]) for option in options(config)]


def _parameter(option: Option, default: Any, *, hidden: bool) -> inspect.Parameter:
    """The flag of an option; a hidden one is accepted, so that the refusal can say why."""
    shown = ",".join(map(str, default)) if isinstance(default, list) else default
    notes = (
        "" if shown in (None, "") else f"default: {str(shown).lower() if isinstance(shown, bool) else shown}"
    )
    if option.source:
        notes = f"{notes}; {option.source}" if notes else option.source
    text = f"{option.help} [{notes}]" if notes else option.help
    if option.type is bool:
        names = f"{option.flag}/--no-{option.flag[2:]}"
        annotation: Any = Annotated[
            bool | None, typer.Option(names, help=text, show_default=False, hidden=hidden)
        ]
    elif option.repeatable:
        annotation = Annotated[
            list[str] | None,
            typer.Option(option.flag, help=text, metavar=option.metavar, show_default=False, hidden=hidden),
        ]
    else:
        annotation = Annotated[
            str | None,
            typer.Option(
                option.flag,
                help=text,
                metavar=option.metavar,
                parser=_parser(option),
                show_default=False,
                hidden=hidden,
            ),
        ]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _parser(option: Option) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return parse_value(text, option.type)
        except ValueError as err:
            raise typer.BadParameter(str(err)) from None

    return parse


def _given(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
