"""`/openapi.yaml`, and `/docs`: the API description in Swagger UI, served from an installed package and from no other host."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from wrenn.control.http.yaml import yaml_of

DOCS_PATH: Final = "/docs"
_PARTS_PATH: Final = "/docs/parts"


YAML_PATH: Final = "/openapi.yaml"


def install(app: FastAPI) -> None:
    """Serve Swagger UI for the description of `app`, and the description as YAML too."""

    async def as_yaml(_request: Request) -> Response:
        return Response(yaml_of(app.openapi()), media_type="application/yaml")

    app.add_route(YAML_PATH, as_yaml, include_in_schema=False)
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=app.title,
        swagger_js_url=f"{_PARTS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{_PARTS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{_PARTS_PATH}/favicon.png",
        # Its default sends the URL of the description to a service of its makers.
        swagger_ui_parameters={"validatorUrl": None},
    )

    async def docs(_request: Request) -> HTMLResponse:
        return page

    app.add_route(DOCS_PATH, docs, include_in_schema=False)
    # Of this package only the files are used; it follows the releases of Swagger UI.
    app.mount(_PARTS_PATH, StaticFiles(directory=str(files("fastapi_offline") / "static")))
