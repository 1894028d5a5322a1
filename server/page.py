"""GET /: the playground, and the files that it is made of. Nothing of it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

_SCRIPTS = (
    *("alternatives", "api", "app", "classify", "controls", "editor", "figures"),
    *("notice", "sample", "samples", "snippet", "theme"),
)
_MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}

PAGE_FILES: Mapping[str, str] = {
    "/": "index.html",
    **{
        f"/page/{name}": name
        for name in (
            *("style.css", "parts.css", "icon.svg"),
            *(f"{script}.js" for script in _SCRIPTS),
        )
    },
}
"""What is at each path, in ``server/web``. A fixed list: no path of a request is ever opened."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        "require-trusted-types-for 'script'",
    )
)
"""The Content-Security-Policy: files of this server only, nothing inline, no markup from texts."""


def page_routes() -> APIRouter:
    """The routes, for one app. They say nothing of the server, so they need no key."""
    router = APIRouter()
    folder = files("server").joinpath("web")
    for path, name in PAGE_FILES.items():
        answer = partial(_answer, folder.joinpath(name).read_bytes(), name)
        router.add_api_route(
            path, answer, methods=["GET"], include_in_schema=False, response_model=None
        )
    return router


def _answer(content: bytes, name: str) -> Response:
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(content, media_type=media_type, headers={"Content-Security-Policy": POLICY})
