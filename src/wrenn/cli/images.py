"""`wrenn images`: guest kernel, initramfs and templates."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from wrenn.cli.output import JsonOption, print_json, print_table
from wrenn.cli.settings import data_dir, images_dir

app = typer.Typer(help="Guest kernel, initramfs and templates.", no_args_is_help=True, rich_markup_mode=None)

DataDirOption = Annotated[Path | None, typer.Option("--data-dir", metavar="D", help="Data folder.")]


TemplateArgument = Annotated[
    str, typer.Argument(metavar="[TEMPLATE]", help="`minimal`, or another that `images/` has a recipe for.")
]


def _place(given: Path | None) -> Path:
    return given.absolute() if given else images_dir(data_dir())


@app.command("build")
def build(
    template: TemplateArgument = "minimal",
    data_dir_: DataDirOption = None,
    *,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch the newest kernel and packages.")] = False,
    json: JsonOption = False,
) -> None:
    """Build the guest kernel and a template if they are missing or out of date; needs root."""
    from wrenn.cli.up.envd import find_envd
    from wrenn.cli.up.progress import Progress
    from wrenn.storage.images import ensure_images

    progress = Progress()
    with progress.step("Guest kernel and template"):
        built = asyncio.run(
            ensure_images(
                _place(data_dir_),
                envd=find_envd(),
                template=template,
                progress=progress.note,
                refresh=refresh,
            )
        )
    if json:
        print_json(built)


@app.command("lock")
def lock(
    template: TemplateArgument = "minimal", data_dir_: DataDirOption = None, *, json: JsonOption = False
) -> None:
    """Update the template's lock file with current package versions; needs root."""
    from wrenn.cli.up.progress import Progress
    from wrenn.storage.images import lock_packages

    progress = Progress()
    with progress.step("Package versions"):
        path = asyncio.run(lock_packages(_place(data_dir_), template=template, progress=progress.note))
    if json:
        print_json({"lock": path})
    else:
        typer.echo(path)


@app.command("list")
def list_(data_dir_: DataDirOption = None, *, json: JsonOption = False) -> None:
    """List the images that were built."""
    from wrenn.storage.images import load_images

    images = load_images(_place(data_dir_))
    if json:
        print_json(images)
    else:
        print_table(
            ("PART", "VALUE"),
            [(field.name, str(getattr(images, field.name))) for field in dataclasses.fields(images)],
        )
