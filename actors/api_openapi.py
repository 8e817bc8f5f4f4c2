"""``/openapi.json``: FastAPI's document, made true where FastAPI says what isn't so.

Its own 422 gives way to our problem documents, and no header may be null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from actors.api_models import Problem


def openapi(app: FastAPI) -> dict[str, Any]:
    """The document of this application, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = Problem.model_json_schema()
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            _drop_null(operation.get("parameters", ()))
            told = operation["responses"]
            if "HTTPValidationError" in str(told.get("422")):
                del told["422"]
        app.openapi_schema = document
    return app.openapi_schema


def _drop_null(parameters: Iterable[dict[str, Any]]) -> None:
    """A header that may be left out can't be null; FastAPI says so of each."""
    for parameter in parameters:
        kinds = [kind for kind in parameter["schema"].get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1:
            del parameter["schema"]["anyOf"]
            parameter["schema"] = kinds[0] | parameter["schema"]
