"""`weightsmith open`: the service in a browser."""

import sys
from typing import Annotated

import typer

from cli.commands import noun
from cli.completion import complete_jobs
from cli.problem import ExitCode, Problem
from cli.session import Session, session_of

app = noun()


@app.command(name="open")
def open_(
    ctx: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(help="A job or a model. Default: the first page.", autocompletion=complete_jobs, metavar="WHAT"),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Open the dashboard in a browser, signed in; prints the address.

    \b
    Examples:
      weightsmith open
      weightsmith open @running
      weightsmith open --no-browser
    """
    session = session_of(ctx)
    address = session.client.credentials.base_url.removesuffix("/v1") + page_of(session, what)
    session.raw({"url": address}) if session.json else typer.echo(address)
    if not no_browser and not session.json and sys.stdout.isatty():
        import webbrowser

        if not webbrowser.open(address):
            session.say("no browser was found; open the address yourself")


def page_of(session: Session, what: str | None) -> str:
    """The path of a job's or a model's page."""
    from cli.models import address
    from cli.references import job_id, model_id

    if what is None:
        return "/"
    try:
        return f"/jobs/{job_id(session, what)}"
    except Problem as problem:
        if problem.exit_code is not ExitCode.NOT_FOUND or what.startswith("@"):
            raise
    return f"/{address(model_id(session, what))}"
