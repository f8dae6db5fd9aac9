"""`wrenn open`: sign in to the dashboard on the server, without a password."""

from __future__ import annotations

import asyncio
import html
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from wrenn.cli.images import DataDirOption
from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import data_dir
from wrenn.cli.up.layout import Layout, write_private
from wrenn.cli.up.sign_in_link import LIFE_S, make_sign_in_link


def open_(
    *,
    email: Annotated[
        str | None,
        typer.Option("--email", metavar="EMAIL", help="The user. [default: the admin that `wrenn up` made]"),
    ] = None,
    data_dir_: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print a link that signs an admin in to the dashboard once, and open it in a browser if there is one.

    For the operator, on the server. The link works for ten minutes; an earlier one of the same user stops working.
    """
    layout = Layout(data_dir(data_dir_))
    link = asyncio.run(make_sign_in_link(layout, email=email))
    if json:
        print_json({"url": link, "expires_in": int(LIFE_S)})
        return
    sys.stdout.write(f"{link}\n")
    if _has_browser():
        webbrowser.open(redirect_page(layout, link).as_uri())


def _has_browser() -> bool:
    # Without a display `webbrowser` would start one in the terminal.
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def redirect_page(layout: Layout, link: str) -> Path:
    """Write a page that only this user can read and that goes on to the link.

    The link itself is not passed to the browser's program: all users of the machine can read arguments of processes.
    """
    page = layout.run / "open.html"
    write_private(
        page,
        f'<!doctype html><meta charset="utf-8"><title>Wrenn</title><meta http-equiv="refresh" content="0; url={html.escape(link)}">\n',
    )
    return page
