"""What people call things: an id, the beginning of one, a name, @last, @running."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cli.completion import complete_files, complete_jobs, complete_models
from cli.problem import ExitCode, Problem
from cli.session import Session

Job = Annotated[
    str,
    typer.Argument(
        help="Its id, the beginning of it, its suffix or model, @last or @running.",
        metavar="JOB",
        autocompletion=complete_jobs,
    ),
]
Jobs = Annotated[
    list[str] | None,
    typer.Argument(help="As above; @running: all that run.", metavar="JOB...", autocompletion=complete_jobs),
]
Model = Annotated[
    str,
    typer.Argument(
        help="Its id, the beginning of it, an alias, a suffix, @last, @running or a job.",
        metavar="MODEL",
        autocompletion=complete_models,
    ),
]
File = Annotated[str, typer.Argument(help="Its id, its name or @last.", metavar="FILE", autocompletion=complete_files)]
ID_LENGTH = 28
SEARCHED = 1000
"""So many of the newest jobs or files are looked through for a name."""


def job_id(session: Session, reference: str) -> str:
    """The id of the job that is meant.

    Raises:
        Problem: none fits, or several do.
    """
    if reference == "@running":
        return str(_first(session, "jobs", "no job is running", state="running")["id"])
    if reference.startswith("@"):
        _check_mark(reference)
        return str(_first(session, "jobs", "there are no jobs yet; `weightsmith train` makes one")["id"])
    if reference.startswith("job_") and len(reference) >= ID_LENGTH:
        return reference
    fitting = [job for job in session.client.pages("jobs", limit=SEARCHED) if _is_called(job, reference)]
    return _only([job["id"] for job in fitting], reference, "job", "weightsmith jobs ls")


def job_ids(session: Session, references: Sequence[str]) -> list[str]:
    """The ids of all jobs that are meant, each once; @running means every job that runs."""
    found: dict[str, None] = {}
    for reference in references:
        if reference == "@running":
            running = [job["id"] for job in session.client.pages("jobs", filters={"state": "running"})]
            if not running:
                raise Problem("no job is running", exit_code=ExitCode.NOT_FOUND)
            found |= dict.fromkeys(running)
        else:
            found[job_id(session, reference)] = None
    return list(found)


def _is_called(job: dict[str, Any], reference: str) -> bool:
    beginning = reference if reference.startswith("job_") else f"job_{reference}"
    return bool(job["id"].startswith(beginning) or reference in (job["spec"].get("suffix"), job.get("model")))


def model_id(session: Session, reference: str) -> str:
    """The name by which the service knows the model that is meant.

    Raises:
        Problem: several fit, or @running has no checkpoint yet.
    """
    if reference == "@running" or reference.startswith("job_"):
        return _made_by(session, job_id(session, reference))
    if reference.startswith("@"):
        _check_mark(reference)
        return str(_first(session, "models", "there are no models yet; `weightsmith train` makes one")["id"])
    if reference.count(":") >= 3:
        return reference
    try:
        models = session.client.get("models")["data"]
    except Problem:
        return reference  # a key that may only generate need not list
    if any(reference == model["id"] or reference in (model.get("aliases") or ()) for model in models):
        return reference
    fitting = [
        model["id"]
        for model in models
        if model["id"].startswith(reference) or model["id"].split(":")[-2:-1] == [reference]
    ]
    if not fitting:
        return reference  # the service says what there is
    return _only(fitting, reference, "model", "weightsmith models ls")


def _made_by(session: Session, job: str) -> str:
    """The model of a job; while it runs its newest checkpoint."""
    result = session.client.get(f"jobs/{job}").get("result") or {}
    return str(
        result.get("model") or _first(session, f"jobs/{job}/checkpoints", f"{job} has no checkpoint yet")["model"]
    )


def file_id(session: Session, reference: str) -> str:
    """The id of the file that is meant; of several with one name the newest.

    Raises:
        Problem: none fits, or several do.
    """
    if reference.startswith("@"):
        _check_mark(reference)
        return str(_first(session, "files", "there are no files yet; `weightsmith files put FILE`")["id"])
    if reference.startswith("file-") and len(reference) > ID_LENGTH:
        return reference
    known = list(session.client.pages("files", limit=SEARCHED))
    named = [file["id"] for file in known if reference in (file["id"], file["filename"])]
    fitting = [file["id"] for file in known if file["id"].startswith(reference)]
    return str(named[0]) if named else _only(fitting, reference, "file", "weightsmith files ls")


def _first(session: Session, path: str, otherwise: str, **filters: str) -> dict[str, Any]:
    """The newest of a list."""
    limit = {} if path == "models" else {"limit": 1}
    found = session.client.get(path, **limit, **filters)["data"]
    if not found:
        raise Problem(otherwise, exit_code=ExitCode.NOT_FOUND)
    newest: dict[str, Any] = found[0]
    return newest


def _check_mark(reference: str) -> None:
    if reference != "@last":
        raise Problem(f"{reference}: there are @last and @running", exit_code=ExitCode.USAGE)


def _only(fitting: Sequence[str], reference: str, what: str, listing: str) -> str:
    if len(fitting) == 1:
        return str(fitting[0])
    if not fitting:
        raise Problem(
            f"no {what} is called {reference!r}", exit_code=ExitCode.NOT_FOUND, hint=f"`{listing}` shows what there is"
        )
    shown = ", ".join(fitting[:3]) + (", …" if len(fitting) > 3 else "")
    raise Problem(
        f"{reference!r} fits {len(fitting)} {what}s: {shown}", exit_code=ExitCode.NOT_FOUND, hint="take more of the id"
    )
