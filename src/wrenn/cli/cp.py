"""`wrenn cp`: copy files and folders into a sandbox or out of it."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from wrenn.cli.output import JsonOption, print_json, size
from wrenn.cli.settings import use_credentials
from wrenn.cli.transfer import Transfer

if TYPE_CHECKING:
    from wrenn.sdk import Sandbox


_CHUNK_B: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class RemotePath:
    """`ID:/path`."""

    sandbox_id: str
    path: str


def cp(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... DST", help="Files or folders, or ID:/path; - is standard input or output."
        ),
    ],
    *,
    user: Annotated[str | None, typer.Option(help="User of the sandbox to act as.")] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="USER[:GROUP]", help="Owner of the copy in the sandbox.")
    ] = None,
    atomic: Annotated[
        bool | None,
        typer.Option(
            "--atomic/--in-place",
            help="Replace a file in the sandbox atomically, or write into it.",
            show_default="--atomic for files",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Copy files and folders into a sandbox or out of it.

    Either DST or all SRC are ID:/path; the others are local paths. If DST is a folder, the copy is created in
    it with its own name; otherwise DST is the name of the copy. With several SRC, DST must be a folder. If
    SRC ends with a slash and a dot (`folder/.`), the contents of the folder are copied into DST. Files are
    replaced, folders merged; missing parents in the sandbox are created. Modes and links are preserved. As
    SRC, - is standard input; as DST, standard output.

    The transfer of a file from a sandbox is resumed after a broken connection, with a message. Any other
    interrupted transfer fails and leaves an existing file unchanged.
    """
    from wrenn.sdk import Sandbox

    if len(paths) < 2:
        raise typer.BadParameter("give SRC and DST.")
    *sources, destination = paths
    origins, target = [parsed(source) for source in sources], parsed(destination)
    into = isinstance(target, RemotePath)
    if any(isinstance(origin, RemotePath) is into for origin in origins):
        raise typer.BadParameter("either DST or all of SRC must be ID:/path, and the others local paths.")
    if not into and (owner or atomic is not None):
        raise typer.BadParameter("--owner, --atomic and --in-place are for copies into a sandbox.")
    if "-" in sources and len(sources) > 1:
        raise typer.BadParameter("- is the only SRC, or none.")
    use_credentials()
    passed, several = 0, len(sources) > 1
    boxes = dict[str, Sandbox]()

    def box(path: RemotePath) -> Sandbox:
        if path.sandbox_id not in boxes:
            boxes[path.sandbox_id] = Sandbox.connect(path.sandbox_id, resume=False)
        return boxes[path.sandbox_id]

    for source, origin in zip(sources, origins, strict=True):
        with Transfer(source) as transfer:
            if isinstance(target, RemotePath):
                options = _Options(user, owner, atomic, several=several)
                _upload(box(target), source, target.path, transfer, options)
            else:
                assert isinstance(origin, RemotePath), "checked above"
                _download(box(origin), origin.path, target, transfer, user=user, several=several)
        passed += transfer.passed
    for sandbox in boxes.values():
        sandbox.close()
    if json:
        source_said = sources if several else sources[0]
        print_json({"source": source_said, "destination": destination, "bytes": passed})
    elif sys.stderr.isatty():
        sys.stderr.write(f"{size(passed)} copied\n")


@dataclass(frozen=True, slots=True)
class _Options:
    """How to write into a sandbox."""

    user: str | None
    owner: str | None
    atomic: bool | None
    several: bool


def parsed(text: str) -> Path | RemotePath:
    """Parse a local path, or `ID:/path` if it begins like that. `./cl-x:y` is always local."""
    sandbox_id, colon, path = text.partition(":")
    if not colon or not sandbox_id.startswith("cl-"):
        return Path(text)
    if not path.startswith("/"):
        raise typer.BadParameter(f"the path in {text!r} must be absolute: {sandbox_id}:/path.")
    return RemotePath(sandbox_id, path)


def _upload(sandbox: Sandbox, source: str, path: str, transfer: Transfer, options: _Options) -> None:
    if source == "-":
        sandbox.files.write(
            path,
            _counted(sys.stdin.buffer, transfer),
            owner=options.owner,
            atomic=options.atomic,
            user=options.user,
        )
        return
    name = _own_name(source)
    if name and (options.several or path.endswith("/") or _is_folder(sandbox, path, options.user)):
        if options.several and not _is_folder(sandbox, path, options.user):
            raise typer.BadParameter(f"{path} is not a folder, and there are several SRC.")
        path = posixpath.join(path, name)
    sandbox.files.upload(
        source,
        path,
        owner=options.owner,
        atomic=options.atomic,
        user=options.user,
        on_progress=transfer.advance,
    )


def _counted(source: BinaryIO, transfer: Transfer) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_B):
        transfer.advance(transfer.passed + len(chunk), None)
        yield chunk


def _download(
    sandbox: Sandbox, path: str, target: Path, transfer: Transfer, *, user: str | None, several: bool
) -> None:
    if str(target) == "-":
        for chunk in sandbox.files.read_stream(path, user=user, on_resume=transfer.note_resume):
            sys.stdout.buffer.write(chunk)
            transfer.advance(transfer.passed + len(chunk), None)
        sys.stdout.flush()
        return
    name = _own_name(path)
    if several and not target.is_dir():
        raise typer.BadParameter(f"{target} is not a folder, and there are several SRC.")
    if name and target.is_dir():
        target /= name
    sandbox.files.download(
        path, target, user=user, on_progress=transfer.advance, on_resume=transfer.note_resume
    )


def _own_name(path: str) -> str:
    """Return the name of the copy in a folder; empty for the contents of a folder (`folder/.`)."""
    last = path.rstrip("/").rpartition("/")[2]
    return "" if last == "." else Path(path).absolute().name if last in ("", "..") else last


def _is_folder(sandbox: Sandbox, path: str, user: str | None) -> bool:
    from wrenn.sdk import InvalidRequestError, NotFoundError

    try:
        entry = sandbox.files.stat(path, user=user)
        if entry.type == "symlink":
            # A link counts as its target, which can be listed only if it is a folder.
            sandbox.files.list(path, user=user)
    except (NotFoundError, InvalidRequestError):
        return False
    return entry.type in ("directory", "symlink")
