"""`wrenn cp`: copy a file or a folder into a sandbox or out of it."""

from __future__ import annotations

import posixpath
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.output import JsonOption, print_json, size
from wrenn.cli.settings import use_credentials
from wrenn.cli.transfer import Transfer

if TYPE_CHECKING:
    from wrenn.sdk import Sandbox


@dataclass(frozen=True, slots=True)
class RemotePath:
    """`ID:/path`."""

    sandbox_id: str
    path: str


def cp(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File or folder, or ID:/path.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="File or folder, or ID:/path.")],
    *,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to act as.")] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="USER[:GROUP]", help="Whose the copy in the sandbox becomes.")
    ] = None,
    atomic: Annotated[
        bool, typer.Option("--atomic", help="Replace a file in the sandbox as a whole or not at all.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Copy a file or a folder into a sandbox or out of it.

    One of SRC and DST is ID:/path, the other is on this machine. When DST is a folder, the copy goes into it, under its own name; else DST is the copy's name. With a slash and a dot at the end of SRC (`folder/.`) what is in it goes into DST. Files are replaced, folders merged; parents inside the sandbox are made. Modes and links are kept.

    A file from a sandbox is gone on with after a broken connection, and a line says so; what else breaks off has failed.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    origin, target = parsed(source), parsed(destination)
    if isinstance(origin, Path) and isinstance(target, RemotePath):
        sandbox = Sandbox.connect(target.sandbox_id, resume=False)
        with Transfer(source) as transfer:
            _upload(sandbox, source, target.path, transfer, user=user, owner=owner, atomic=atomic)
    elif isinstance(origin, RemotePath) and isinstance(target, Path):
        if owner or atomic:
            raise typer.BadParameter("--owner and --atomic are for copies into a sandbox.")
        sandbox = Sandbox.connect(origin.sandbox_id, resume=False)
        with Transfer(source) as transfer:
            _download(sandbox, origin.path, target, transfer, user=user)
    else:
        raise typer.BadParameter("one of SRC and DST must be ID:/path, and the other a local path.")
    sandbox.close()
    if json:
        print_json({"source": source, "destination": destination, "bytes": transfer.passed})
    elif sys.stderr.isatty():
        sys.stderr.write(f"{size(transfer.passed)} copied\n")


def parsed(text: str) -> Path | RemotePath:
    """A local path, or `ID:/path` when that is how it begins. `./cl-x:y` is always local."""
    sandbox_id, colon, path = text.partition(":")
    if not colon or not sandbox_id.startswith("cl-"):
        return Path(text)
    if not path.startswith("/"):
        raise typer.BadParameter(f"the path in {text!r} must be absolute: {sandbox_id}:/path.")
    return RemotePath(sandbox_id, path)


def _upload(
    sandbox: Sandbox,
    source: str,
    path: str,
    transfer: Transfer,
    *,
    user: str | None,
    owner: str | None,
    atomic: bool,
) -> None:
    name = _own_name(source)
    if name and (path.endswith("/") or _is_folder(sandbox, path, user)):
        path = posixpath.join(path, name)
    sandbox.files.upload(source, path, owner=owner, atomic=atomic, user=user, on_progress=transfer.advance)


def _download(sandbox: Sandbox, path: str, target: Path, transfer: Transfer, *, user: str | None) -> None:
    name = _own_name(path)
    if name and target.is_dir():
        target /= name
    sandbox.files.download(
        path, target, user=user, on_progress=transfer.advance, on_resume=transfer.note_resume
    )


def _own_name(path: str) -> str:
    """The name that a copy gets in a folder; none for what is in a folder (`folder/.`)."""
    last = path.rstrip("/").rpartition("/")[2]
    return "" if last == "." else Path(path).absolute().name if last in ("", "..") else last


def _is_folder(sandbox: Sandbox, path: str, user: str | None) -> bool:
    from wrenn.sdk import InvalidRequestError, NotFoundError

    try:
        entry = sandbox.files.stat(path, user=user)
        if entry.type == "symlink":
            # It counts as what it leads to, which can only be listed when that is a folder.
            sandbox.files.list(path, user=user)
    except (NotFoundError, InvalidRequestError):
        return False
    return entry.type in ("directory", "symlink")
