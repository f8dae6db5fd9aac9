"""The `--env-file` option: settings of a server program from a file, as service managers write them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final

import typer

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

EnvFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        metavar="FILE",
        help="Read settings from this file, as NAME=VALUE lines. The environment takes precedence.",
    ),
]


def load_env_file(path: Path | None) -> None:
    """Add the settings of the file to the environment, except those that it has already.

    Lines are `NAME=VALUE`; the value may be in double or single quotes and then span lines, as PEM text does. Empty
    lines and lines that begin with `#` are ignored.

    Raises:
        typer.BadParameter: the file cannot be read, or a line is no setting. The message never holds a value.
    """
    if path is None:
        return
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--env-file {path} cannot be read: {error}.") from error
    for name, value in _settings(text, path):
        os.environ.setdefault(name, value)


def _settings(text: str, path: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        if not separator or _NAME.fullmatch(name) is None:
            raise typer.BadParameter(f"--env-file {path}: line {number} is not NAME=VALUE.")
        quote = value[:1]
        if quote in ('"', "'"):
            value = value[1:]
            while quote not in value:
                _, more = next(lines, (0, None))
                if more is None:
                    raise typer.BadParameter(
                        f"--env-file {path}: the quotes of line {number} are not closed."
                    )
                value += f"\n{more.rstrip()}"
            if value.index(quote) != len(value) - 1:
                raise typer.BadParameter(
                    f"--env-file {path}: line {number} has text after its closing quote."
                )
            value = value[:-1]
        found.append((name, value))
    return found
