"""The command line's way to the service: HTTP, and what an answer means for the exit code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from cli.credentials import Credentials
from cli.problem import OF_STATUS, ExitCode, Problem

PAGE = 100
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


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
    code = OF_STATUS.get(response.status_code, ExitCode.FAILED)
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
