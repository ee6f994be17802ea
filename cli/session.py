"""One run of the command line: the flags that every command takes, the client, and how things are shown.

Standard output carries data only: a table cut to the width of a terminal, tab-separated full values in a pipe, or the
API's own JSON. Progress, hints and errors go to standard error.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from cli.problem import ExitCode, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from cli.client import Client

Row = Mapping[str, Any]


class Cell(NamedTuple):
    """A value as a person and as a program wants to read it."""

    shown: str
    plain: str


Column = Callable[[Any], "str | Cell | None"]


class Session:
    def __init__(
        self,
        *,
        json: bool = False,
        fields: tuple[str, ...] = (),
        quiet: bool = False,
        no_progress: bool = False,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self.json = json
        self.fields = fields
        self.quiet = quiet
        self.no_progress = no_progress
        self.base_url = base_url
        self.api_key = api_key

    @cached_property
    def client(self) -> "Client":
        from cli.client import Client
        from cli.credentials import find_credentials

        return Client(find_credentials(self.base_url, self.api_key))

    def close(self) -> None:
        if "client" in vars(self):
            self.client.close()

    @cached_property
    def console(self) -> "Console":
        """Standard output."""
        from rich.console import Console

        return Console(highlight=False, soft_wrap=False, markup=False, emoji=False)

    @cached_property
    def screen(self) -> "Console":
        """Standard error: for what people read while they wait."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def lively(self) -> bool:
        """Somebody looks at a terminal that can be drawn on again and again, and wants to."""
        shown = self.screen.is_terminal and not self.screen.is_dumb_terminal
        return shown and not (self.quiet or self.json or self.no_progress)

    def say(self, text: str) -> None:
        """Tell a person something that is no data. Nobody may be listening any more."""
        if not self.quiet:
            with suppress(OSError):
                typer.echo(printable(text), err=True)

    def listing(self, page: Any, columns: Mapping[str, Column], *, empty: str) -> None:
        """A page of a list: rows by column."""
        rows = page["data"]
        if self.json:
            self.raw(page)
        elif self.quiet:
            for row in rows:
                typer.echo(row["id"])
        elif not self.console.is_terminal:
            for row in rows:
                typer.echo("\t".join(_one_line(_cell(column(row)).plain) for column in columns.values()))
        elif rows:
            self._table(rows, columns)
        if not rows and not self.json:
            self.say(empty)
        elif page.get("has_more") and not self.json:
            self.say(f"more: add --after {rows[-1]['id']}")

    def _table(self, rows: list[Row], columns: Mapping[str, Column]) -> None:
        from rich.cells import cell_len
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        cells = [[printable(_one_line(_cell(column(row)).shown)) for column in columns.values()] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
        widest = widths.index(max(widths))  # where there is too little room, this one is cut
        widths[widest] = max(8, widths[widest] - max(0, sum(widths) + 2 * len(widths) - self.console.width))
        for name, width in zip(columns, widths, strict=True):
            table.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
        for line in cells:
            table.add_row(*line)
        self.console.print(table)

    def object(self, found: Any, fields: Mapping[str, Column]) -> None:
        """One object: a line for each field that has a value."""
        if self.json:
            self.raw(found)
        elif self.quiet:
            typer.echo(found["id"])
        else:
            self.facts({name: _cell(field(found)) for name, field in fields.items()})

    def facts(self, facts: Mapping[str, "str | Cell | None"]) -> None:
        """Names and values, the names in a column of their own."""
        cells = {name: _cell(value) for name, value in facts.items()}
        width = max((len(name) for name in cells), default=0)
        for name, cell in cells.items():
            if not cell.plain:
                continue
            if self.console.is_terminal:
                lines = printable(cell.shown).splitlines() or [""]
                self.console.print(f"{name:<{width}}  {lines[0]}")
                for line in lines[1:]:
                    self.console.print(" " * (width + 2) + line)
            else:
                typer.echo(f"{name}\t{_one_line(cell.plain)}")

    def raw(self, found: Any) -> None:
        """The API's own words, or the fields of them that were asked for."""
        shown = picked(found, self.fields) if self.fields else found
        typer.echo(json.dumps(shown, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))

    def line(self, found: Any) -> None:
        """One object of a stream, on a line of its own, at once."""
        shown = picked(found, self.fields) if self.fields else found
        sys.stdout.write(json.dumps(shown, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def confirm(self, question: str, name: str, *, yes: bool) -> None:
        """Before something is destroyed its name is typed; off a terminal only `--yes` will do."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise Problem(f"{question} Nobody is there to answer", exit_code=ExitCode.USAGE, hint="add --yes")
        if typer.prompt(f"{question} Type its name to say yes", default="", show_default=False, err=True) != name:
            raise Problem("nothing was done", exit_code=ExitCode.FAILED)


def picked(found: Any, fields: tuple[str, ...]) -> Any:
    """Those fields of an object, or of each object of a list; a dot goes one deeper.

    Raises:
        Problem: no object has such a field.
    """
    if isinstance(found, dict) and found.get("object") == "list":
        return found | {"data": [picked(one, fields) for one in found["data"]]}
    return {field: _field(found, field) for field in fields}


def _field(found: Any, path: str) -> Any:
    for name in path.split("."):
        if found is None:
            return None
        if not isinstance(found, dict) or name not in found:
            known = ", ".join(found) if isinstance(found, dict) else "none"
            raise Problem(f"--json: no field {name!r}; there are {known}", exit_code=ExitCode.USAGE)
        found = found[name]
    return found


def session_of(ctx: typer.Context) -> Session:
    """The session that the main command has put there."""
    session: Session = ctx.obj
    return session


def read_json(place: str) -> Any:
    """The JSON in a file, or on standard input."""
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
    except OSError as error:
        raise Problem(f"{place}: {error.strerror}", exit_code=ExitCode.USAGE) from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise Problem(f"{place} is not JSON: {error}", exit_code=ExitCode.USAGE) from None


def json_of(text: str, where: str) -> Any:
    """JSON, or what lies in @FILE."""
    if text.startswith("@"):
        return read_json(text[1:])
    try:
        return json.loads(text)
    except ValueError as error:
        raise Problem(f"{where} is not JSON: {error}", exit_code=ExitCode.USAGE) from None


def _cell(value: "str | Cell | None") -> Cell:
    return value if isinstance(value, Cell) else Cell(value or "", value or "")


def printable(text: str) -> str:
    """Text that a terminal only shows: what a model or a file says may not move its cursor or set its title."""
    return text.translate(_CONTROLS)


_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def when(timestamp: float | None) -> Cell:
    """How long ago, or the moment (UTC)."""
    if timestamp is None:
        return Cell("", "")
    moment = datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Cell(f"{duration(max(0.0, time.time() - timestamp))} ago", moment)


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 and whole % 60 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(num_bytes: float | None) -> Cell:
    """`3.4 MB`, or the number."""
    if num_bytes is None:
        return Cell("", "")
    plain, amount = str(int(num_bytes)), float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return Cell(f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}", plain)
        amount /= 1000
    return Cell(f"{amount:.1f} TB", plain)


def count(number: float | None) -> Cell:
    """`1.3 M`, or the number."""
    if number is None:
        return Cell("", "")
    plain, amount = f"{number:.0f}", float(number)
    if amount < 10_000:
        return Cell(f"{amount:,.0f}", plain)
    for unit in ("k", "M", "G"):
        amount /= 1000
        if amount < 1000:
            return Cell(f"{amount:.1f} {unit}" if amount < 100 else f"{amount:.0f} {unit}", plain)
    return Cell(f"{amount / 1000:.1f} T", plain)
