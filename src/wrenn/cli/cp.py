"""`wrenn cp`: copy one file into a sandbox or out of it."""

from __future__ import annotations

import os
import posixpath
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import Sandbox


@dataclass(frozen=True, slots=True)
class RemotePath:
    """`ID:/path`."""

    sandbox_id: str
    path: str


def cp(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, or ID:/path.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="File, folder, or ID:/path.")],
    *,
    json: JsonOption = False,
) -> None:
    """Copy a file into a sandbox or out of it.

    One of SRC and DST is ID:/path, the other is on this machine. The destination is replaced; parents inside the sandbox are made. Pack a directory first: tar -C DIR -cf x.tar .
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    origin, target = parsed(source), parsed(destination)
    if isinstance(origin, Path) and isinstance(target, RemotePath):
        sandbox = Sandbox.connect(target.sandbox_id, resume=False)
        size = _upload(sandbox, origin, target.path)
    elif isinstance(origin, RemotePath) and isinstance(target, Path):
        sandbox = Sandbox.connect(origin.sandbox_id, resume=False)
        size = _download(sandbox, origin.path, target)
    else:
        raise typer.BadParameter("one of SRC and DST must be ID:/path, and the other a local path.")
    sandbox.close()
    if json:
        print_json({"source": source, "destination": destination, "bytes": size})


def parsed(text: str) -> Path | RemotePath:
    """A local path, or `ID:/path` when that is how it begins. `./cl-x:y` is always local."""
    sandbox_id, colon, path = text.partition(":")
    if not colon or not sandbox_id.startswith("cl-"):
        return Path(text)
    if not path.startswith("/"):
        raise typer.BadParameter(f"the path in {text!r} must be absolute: {sandbox_id}:/path.")
    return RemotePath(sandbox_id, path)


def _upload(sandbox: Sandbox, source: Path, path: str) -> int:
    from wrenn.sdk import NotFoundError

    if source.is_dir():
        raise typer.BadParameter(f"{source} is a directory: pack it with tar, or copy its files one by one.")
    try:
        file = source.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{source} cannot be read: {error.strerror}.") from error
    with file:
        try:
            into_directory = path.endswith("/") or sandbox.files.stat(path).type == "directory"
        except NotFoundError:
            into_directory = False
        sandbox.files.write(posixpath.join(path, source.name) if into_directory else path, file)
        return file.tell()


def _download(sandbox: Sandbox, path: str, target: Path) -> int:
    if sandbox.files.stat(path).type == "directory":
        raise typer.BadParameter(f"{path} is a directory: pack it with tar, or copy its files one by one.")
    if target.is_dir():
        target = target / posixpath.basename(path)
    # Into a neighbour first: a transfer that breaks off leaves what was there before.
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise typer.BadParameter(f"{target} cannot be written: {error.strerror}.") from error
    neighbour = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in sandbox.files.read_stream(path):
                file.write(chunk)
            size = file.tell()
        neighbour.chmod(0o666 & ~_umask())
        neighbour.replace(target)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise
    return size


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
