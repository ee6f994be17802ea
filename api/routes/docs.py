"""The reference: the OpenAPI document, and a page of our own that shows it (nothing comes from another host)."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from api.dependencies import Watcher

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).resolve().parent.parent / "static"
_PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"


@router.get("/openapi.json")
def get_openapi(request: Request, caller: Watcher) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/docs")
async def get_docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers={"content-security-policy": _PAGE_POLICY})


@router.get("/docs/docs.js")
async def get_script() -> FileResponse:
    return FileResponse(STATIC / "docs.js", media_type="text/javascript")


@router.get("/docs/docs.css")
async def get_style() -> FileResponse:
    return FileResponse(STATIC / "docs.css", media_type="text/css")
