"""`weightsmith`: the command. A subcommand's module is imported when it is called, so that help is there at once."""

import json
import sys
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer._click.exceptions import ClickException
from typer._click.shell_completion import CompletionItem

from cli.commands import Group

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "demo": ("cli.demo", "From raw text to a trained model that answers, in minutes"),
        "up": ("cli.up", "Keep a whole stack running on this machine"),
        "doctor": ("cli.doctor", "Look at what runs here and say what is wrong"),
        "login": ("cli.config:login_app", "Remember a service and its key"),
        "config": ("cli.config:config_app", "Which service is spoken to, and who says so"),
        "help": ("cli.manual", "Explain a command, or the exit codes"),
    },
    "Every day": {
        "train": ("cli.train:train_app", "Upload a file and train on it, in one line"),
        "estimate": ("cli.train:estimate_app", "What a job would take: steps, tokens, memory"),
        "generate": ("cli.generate:generate_app", "Let a model continue a text"),
        "chat": ("cli.generate:chat_app", "Talk to a model"),
        "classify": ("cli.classify:classify_app", "Labels, tags, answers or scores of texts"),
        "embed": ("cli.classify:embed_app", "Vectors of texts"),
        "compare": ("cli.compare", "Two runs beside each other: settings, figures, curves, answers"),
        "open": ("cli.browser", "The dashboard in a browser"),
    },
    "Things": {
        "jobs": ("cli.jobs", "Submit, watch, wait, pause, resume, cancel, clone, diff, …"),
        "files": ("cli.files", "Upload, check, list, show, remove"),
        "models": ("cli.models", "List, download, import, name, remove"),
        "tokenizers": ("cli.tokenizers", "List, show, remove"),
        "top": ("cli.fleet", "The fleet at a glance: workers, running jobs, the queue"),
        "workers": ("cli.workers", "Who works for this service now"),
        "keys": ("cli.keys", "Create, list, revoke API keys"),
        "api": ("cli.api_call", "Call any address of the API"),
    },
}
COMMANDS = {name: place for section in SECTIONS.values() for name, place in section.items()}

EPILOG = """
\b
Anywhere in the line:
  --json[=FIELDS]    the API's answer, unchanged, or only id,state,…
  -q, --quiet        ids only
  --base-url URL     the service, e.g. http://127.0.0.1:8000/v1
  --api-key KEY      better in WEIGHTSMITH_API_KEY
  --no-progress      lines instead of bars and screens
  --debug            the trace of an error
  --version          (alone) the version

\b
Exit codes:
  0 done             4 not signed in        8 timed out, the job goes on
  1 failed           5 not found            9 no server
  2 usage            6 wrong state          130 interrupted
  3 the job failed   7 no room, try again

\b
Examples:
  weightsmith demo
  weightsmith jobs submit job.json --watch
  weightsmith jobs ls --json | jq '.data[].id'
"""

# Every command takes these, wherever they stand in the line. Parsed by hand: typer would load pydantic for them,
# which takes longer than all the rest of a `--help`.
FLAGS = {"--json": "json", "--quiet": "quiet", "-q": "quiet", "--no-progress": "no_progress", "--debug": "debug"}
VALUED = {"--base-url": "base_url", "--api-key": "api_key"}


def load(name: str) -> Any:
    """A command of the table."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = typer.main.get_command(getattr(import_module(module), attribute or "app"))
    command.name = name
    return command


class Commands(Group):
    """The table above as a command group."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load(cmd_name) if cmd_name in COMMANDS else None

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names from the table: no command's module is loaded for a TAB."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        known = ((name, help) for section in SECTIONS.values() for name, (_, help) in section.items())
        return [CompletionItem(name, help=help) for name, help in known if name.startswith(incomplete)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<10}", summary) for name, (_, summary) in commands.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = dict.fromkeys(COMMANDS, self)  # names for "did you mean"
        if not ctx.resilient_parsing and args[0] not in COMMANDS and args[0] in load("jobs").commands:
            ctx.fail(f"No such command {args[0]!r}. Did you mean 'jobs {args[0]}'?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(epilog=EPILOG)
def options() -> None:
    """Train, fine-tune and serve language models on machines you own."""


def take_options(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Pick out the options that every command takes; what follows `--` stays as it is."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif word in FLAGS:
            found[FLAGS[word]] = True
        elif name == "--json" and equals:
            found |= {"json": True, "fields": tuple(filter(None, value.split(",")))}
        elif name in VALUED and (equals or (value := next(words, ""))):
            found[VALUED[name]] = value
        else:
            rest.append(word)
    return found, rest


def find_command(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that the first words name, its name, and the words left. (Typer's way there would load pydantic.)"""
    command, name, left = typer.main.get_command(app), "weightsmith", words
    known: Any = COMMANDS
    while left and left[0] in known:
        command = known[left[0]] if known is not COMMANDS else load(left[0])
        name, left = f"{name} {left[0]}", left[1:]
        known = getattr(command, "commands", {})
    return command, name, left


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command. Errors become one message and an exit code, never a trace."""
    from cli.session import Session

    found, rest = take_options(sys.argv[1:] if arguments is None else arguments)
    debug = found.pop("debug", False)
    session = Session(**found)
    try:
        code = call(rest, session)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exception(error)
        code = report(error, as_json=session.json)
    finally:
        session.close()
    sys.exit(code)


def call(words: list[str], session: Any) -> int:
    """Run the command that the words name; its exit code."""
    if words == ["--version"]:
        from importlib.metadata import version

        typer.echo(f"weightsmith {version('weightsmith')}")
        return 0
    command, name, left = find_command(words)
    code = command.main(args=left, prog_name=name, obj=session, standalone_mode=False)
    return int(code) if isinstance(code, int) else 0


def report(error: Exception, *, as_json: bool) -> int:
    """Say on standard error what went wrong and what to do; returns the exit code."""
    from cli.problem import ExitCode, Problem, an_envelope

    if isinstance(error, typer.Abort):  # Ctrl-C or Ctrl-D where something was asked
        typer.echo("\nnothing was done", err=True)
        return ExitCode.INTERRUPTED
    if isinstance(error, ClickException):
        if as_json:
            typer.echo(json.dumps(an_envelope(error.format_message())), err=True)
        else:
            error.show()
        return ExitCode.USAGE
    if not isinstance(error, Problem):
        error = Problem(
            f"this should not have happened: {type(error).__name__}: {error}",
            hint="the same command with --debug shows where",
        )
    if as_json:
        typer.echo(json.dumps(error.envelope, ensure_ascii=False), err=True)
        return error.exit_code
    typer.echo(f"weightsmith: {error.message}", err=True)
    if error.hint:
        typer.echo(f"  {error.hint}", err=True)
    if error.request_id:
        typer.echo(f"  request {error.request_id}", err=True)
    return error.exit_code


if __name__ == "__main__":
    main()
