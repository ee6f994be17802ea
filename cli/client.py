"""The command line's way to the service: credentials, HTTP, and what an answer means for the exit code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cli.problem import ExitCode, Problem
from core.settings import client_environment

CREDENTIALS = Path(".weightsmith") / "credentials.json"
PAGE = 100
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


_OF_STATUS = {
    401: ExitCode.NOT_SIGNED_IN,
    403: ExitCode.NOT_SIGNED_IN,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.WRONG_STATE,
    429: ExitCode.NO_ROOM,
    503: ExitCode.NO_ROOM,
    507: ExitCode.NO_ROOM,
}


@dataclass(frozen=True)
class Credentials:
    """Where the service is, and the key that opens it."""

    base_url: str
    """ends with /v1"""
    api_key: str
    source: str
    """for people: which place they come from"""


def find_credentials(base_url: str | None, api_key: str | None, *, start: Path | None = None) -> Credentials:
    """Flags, then variables, then the credentials.json of `weightsmith up`, here or in a folder above.

    Raises:
        Problem: no key anywhere.
    """
    told = client_environment()
    if api_key is None and base_url is None and "api_key" not in told:
        file = _credentials_file(start or Path.cwd(), told.get("home"))
        if file is not None:
            return read_credentials(file)
    key = api_key or told.get("api_key")
    url = base_url or told.get("base_url") or "http://127.0.0.1:8000/v1"
    if key is None:
        raise Problem(
            "not signed in: there is no API key",
            exit_code=ExitCode.NOT_SIGNED_IN,
            hint="start a stack here with `weightsmith up` (it writes .weightsmith/credentials.json), "
            "or set WEIGHTSMITH_BASE_URL and WEIGHTSMITH_API_KEY",
        )
    return Credentials(url.rstrip("/"), key, "--api-key" if api_key else "WEIGHTSMITH_API_KEY")


def _credentials_file(start: Path, home: str | None) -> Path | None:
    if home is not None:
        return file if (file := Path(home) / CREDENTIALS.name).is_file() else None
    return next((file for folder in (start, *start.parents) if (file := folder / CREDENTIALS).is_file()), None)


def read_credentials(file: Path) -> Credentials:
    try:
        found = json.loads(file.read_text())
        return Credentials(str(found["base_url"]).rstrip("/"), str(found["api_key"]), str(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(
            f"{file} cannot be used: {error}",
            exit_code=ExitCode.NOT_SIGNED_IN,
            hint="`weightsmith up` writes it anew when it is removed",
        ) from None


class Client:
    """HTTP with the service's manners: every answer that is no success is a `Problem`."""

    def __init__(self, credentials: Credentials, *, transport: httpx.BaseTransport | None = None) -> None:
        self.credentials = credentials
        self._http = httpx.Client(
            base_url=credentials.base_url,
            headers={"authorization": f"Bearer {credentials.api_key}", "user-agent": "weightsmith-cli"},
            timeout=TIMEOUT,
            transport=transport,
            trust_env=False,  # a proxy that is set for the internet does not know the way to 127.0.0.1
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._json(self.request("GET", path, params=params))

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self._json(self.request("POST", path, json=body, **options))

    def delete(self, path: str) -> Any:
        return self._json(self.request("DELETE", path))

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One exchange. `path` is below the base URL, or starts at the server's root with `/v1/`."""
        with self._reachable():
            response = self._http.request(method, self._url(path), **_without_none(options))
        _check(response)
        return response

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer that is read while it comes; silence is allowed for as long as it lasts."""
        timeout = httpx.Timeout(60.0, connect=5.0, read=None)
        with (
            self._reachable(),
            self._http.stream(method, self._url(path), timeout=timeout, **_without_none(options)) as response,
        ):
            if response.is_error:
                response.read()
            _check(response)
            yield response

    def events(self, method: str, path: str, **options: Any) -> Iterator[dict[str, Any]]:
        """The data of each server-sent event, up to [DONE] or the end."""
        with self.stream(method, path, **options) as response:
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                text = line.removeprefix("data:").strip()
                if text == "[DONE]":
                    return
                data = json.loads(text)
                if isinstance(data, dict) and "error" in data and "object" not in data:
                    raise _problem(data, ExitCode.FAILED, response.headers.get("x-request-id"))
                yield data

    def pages(
        self, path: str, *, limit: int | None = None, filters: Mapping[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Every object of a list, page by page, up to `limit`."""
        left, params = limit, dict(filters or {})
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.get(path, limit=size, **params)
            yield from page["data"][:size]
            if not page.get("has_more") or not page["data"]:
                return
            left = None if left is None else left - len(page["data"])
            params["after"] = page["data"][-1]["id"]

    def _url(self, path: str) -> str:
        """`/v1/x` and `/healthz` are addresses on the server, `jobs/x` is one below the base URL."""
        if not path.startswith("/"):
            return path
        root = self.credentials.base_url.removesuffix("/v1")
        return root + path

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Problem(
                f"no answer from {self.credentials.base_url} in time ({type(error).__name__})",
                exit_code=ExitCode.UNREACHABLE,
                hint="`weightsmith doctor` looks at what runs",
            ) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Problem(
                f"no server at {self.credentials.base_url}: {error}",
                exit_code=ExitCode.UNREACHABLE,
                hint="start it with `weightsmith up`, or name another one: --base-url, WEIGHTSMITH_BASE_URL",
            ) from None

    @staticmethod
    def _json(response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise Problem(
                f"{response.request.url} did not answer with JSON: is it a Weightsmith server?",
                exit_code=ExitCode.FAILED,
            ) from None


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not given, query parameters included."""
    given = {name: value for name, value in options.items() if value is not None}
    if "params" in given:
        given["params"] = {name: value for name, value in given["params"].items() if value is not None}
    return given


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    code = _OF_STATUS.get(response.status_code, ExitCode.FAILED)
    try:
        body = response.json()
    except ValueError:
        body = {"error": {"message": f"the server answered {response.status_code}: {response.text[:200]}"}}
    raise _problem(body, code, response.headers.get("x-request-id"))


def _problem(body: Any, code: ExitCode, request_id: str | None) -> Problem:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {"message": str(body)[:500]}
    param = error.get("param")
    message = str(error.get("message", "the server gave no reason"))
    if param and param not in message:
        message = f"{param}: {message}"
    hint = error.get("hint") or _HINTS.get(code)
    return Problem(message, exit_code=code, hint=hint, request_id=request_id, envelope={"error": error})


_HINTS = {
    ExitCode.NOT_SIGNED_IN: "`weightsmith doctor` shows which key is used and where it comes from",
    ExitCode.NO_ROOM: "worth another try in a moment",
}
