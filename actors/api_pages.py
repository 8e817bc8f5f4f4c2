"""The page at ``/docs``: Swagger UI over ``/openapi.json``, with nothing from elsewhere; it works without a network.

Its script and style come from the package ``fastapi-offline``, of which nothing else is used, and none of whose code
runs. Addresses are relative, so that the application can be mounted under a prefix.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from actors.errors import PathUnknown

_PACKAGE: Final = "fastapi_offline"
_FILES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_DAY: Final = {"cache-control": "max-age=86400"}


def add_pages(app: FastAPI) -> None:
    """``/docs`` and the files that it loads."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
            # Else the page asks a validator on the internet about the document.
            swagger_ui_parameters={"validatorUrl": None},
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in _FILES:
            raise PathUnknown(f"There is nothing at /docs/{name}.")
        return FileResponse(_folder() / name, media_type=_FILES[name], headers=_DAY)


def _folder() -> Path:
    # Found, not imported: a host has no use for the package's code.
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise PathUnknown(f"The page isn't installed: pip install {_PACKAGE.replace('_', '-')}.")
    return Path(found.origin).parent / "static"
