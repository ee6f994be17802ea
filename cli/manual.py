"""`weightsmith help`: a command, the exit codes, or the whole reference as one page."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli.commands import noun
from cli.problem import MEANINGS, ExitCode, Problem
from cli.session import Column, session_of

app = noun()

REFERENCES = """\
A job is named by its id, the beginning of it, its suffix or its model (where only one job has it), `@last`, or
`@running`; a model by its id, the beginning or the suffix of it, an alias, `@last`, a job, or `@running` (the newest
checkpoint of what trains now); a file by its id, its name, or `@last`."""

OUTPUT = """\
Standard output carries data only: tables cut to the width of a terminal, tab-separated full values in a pipe, the
API's own words with `--json` (`--json=id,state` picks fields, dots go deeper), ids with `-q`. Progress, hints and
errors go to standard error; with `--json` an error is the API's envelope there. Colours stay away with `NO_COLOR` and
in pipes, bars also with `TERM=dumb` and `--no-progress`. Nobody is asked anything off a terminal: `--yes` says it
beforehand."""


@app.command(name="help")
def help_(
    ctx: typer.Context,
    topic: Annotated[
        list[str] | None, typer.Argument(help="Words of a command, or exit-codes.", metavar="TOPIC...")
    ] = None,
    md: Annotated[bool, typer.Option("--md", help="The whole reference as a Markdown page.")] = False,
) -> None:
    """Explain a command, or the exit codes.

    \b
    Examples:
      weightsmith help jobs watch
      weightsmith help exit-codes
      weightsmith help --md > cli.md
    """
    from cli.main import find_command

    if md:
        typer.echo(page(), nl=False)
    elif topic == ["exit-codes"]:
        exit_codes(ctx)
    else:
        command, name, left = find_command(topic or [])
        if left:
            raise Problem(
                f"no command {name.removeprefix('weightsmith ')} {left[0]}".replace("weightsmith ", ""),
                exit_code=ExitCode.USAGE,
                hint=f"`{name} --help` lists what there is; `weightsmith help exit-codes` is a topic too",
            )
        typer.echo(command.get_help(command.make_context(name, [], resilient_parsing=True)))


def exit_codes(ctx: typer.Context) -> None:
    session = session_of(ctx)
    rows = [{"id": str(code.value), "name": name, "meaning": what} for code, (name, what) in MEANINGS.items()]
    columns: dict[str, Column] = {
        "code": lambda row: row["id"],
        "name": lambda row: row["name"],
        "meaning": lambda row: row["meaning"],
    }
    session.listing({"object": "list", "data": rows, "has_more": False}, columns, empty="")


def page() -> str:
    """The reference: every command with its arguments, options and examples."""
    from cli.main import EPILOG, SECTIONS, load

    lines = [
        "# The command line",
        "",
        "This page is written by `weightsmith help --md > docs/cli.md`; a test keeps it fresh.",
        "",
        f"**References.** {REFERENCES}",
        "",
        f"**Output.** {OUTPUT}",
        "",
        "**Anywhere in the line:**",
        "",
        "```text",
        *EPILOG.partition("Anywhere in the line:\n")[2].partition("\n\n")[0].splitlines(),
        "```",
        "",
        "## Exit codes",
        "",
        "| code | name | meaning |",
        "|---|---|---|",
        *(f"| {code.value} | {name} | {what} |" for code, (name, what) in MEANINGS.items()),
    ]
    for title, names in SECTIONS.items():
        lines += ["", f"## {title}"]
        for name in names:
            command = load(name)
            lines += list(entry(command, f"weightsmith {name}"))
            for sub in getattr(command, "commands", {}).values():
                lines += list(entry(sub, f"weightsmith {name} {sub.name}"))
    return "\n".join(lines) + "\n"


def entry(command: Any, name: str) -> Iterator[str]:
    """One command as Markdown; a group is only a heading."""
    if getattr(command, "commands", None):
        return
    text, _, examples = (command.help or "").replace("\b\n", "").partition("Example")
    arguments = " ".join(_usage(parameter) for parameter in command.params if parameter.param_type_name == "argument")
    yield from ("", f"### `{name}`", "", " ".join(text.split()), "")
    yield from ("```sh", *(line.strip() for line in examples.partition(":\n")[2].splitlines() if line.strip()), "```")
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        yield from ("", f"Usage: `{name} [OPTIONS] {arguments}".rstrip() + "`", "", "| | |", "|---|---|", *rows)


def _usage(parameter: Any) -> str:
    shown = _placeholder(parameter)
    return shown if parameter.required else f"[{shown}]"


def _placeholder(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{_placeholder(parameter)}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    help = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    known = parameter.default
    default = "" if known in (None, False, True, "", (), []) or callable(known) else f" Default: {known}."
    return f"| {names} | {help}{'' if 'Default' in help else default} |".replace(" |  |", " | |")
