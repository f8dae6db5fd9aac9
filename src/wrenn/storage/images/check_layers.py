"""Checks the layers of an OCI layout before they are unpacked, and writes them anew as it has read them, without device nodes.

A program of its own, without imports of ours: it runs in a jail (`wrenn.linux.jail`), as layers are hostile input. It is called
with the layout's folder and the limits of entries and of bytes, and writes one line of JSON: `config`, `entries`, `bytes` and
`devices` (how many were removed), or `error`.

What was counted is what is unpacked: two programs that read tar archives can find different entries in the same bytes. Nobody can
create device nodes in a user namespace, and a guest has its own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

_BUFFER_B = 1 << 20
_JSON_B = 4 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LAYERS = 512
_XATTR = "SCHILY.xattr."
_TAR = "application/vnd.oci.image.layer.v1.tar"


class Refused(Exception):
    """Why the image is refused, for its user."""


def check(layout: Path, entries_limit: int, bytes_limit: int) -> dict[str, Any]:
    """Check the only image of the layout; return the report."""
    index = _json(layout / "index.json")
    descriptor = index["manifests"][0]
    manifest = _json(_blob(layout, descriptor))
    config = _json(_blob(layout, manifest["config"]))
    layers = manifest["layers"]
    if len(layers) > _LAYERS:
        raise Refused(f"The image has more than {_LAYERS} layers.")
    counted = _Counted(entries_limit, bytes_limit)
    waiting = [str(layer["digest"]) for layer in layers]
    written: set[str] = set()
    for number, layer in enumerate(layers):
        path, draft = _blob(layout, layer), layout / "layer"
        _rewrite(path, draft, counted)
        # Room for the next one, unless it is another layer's too.
        if waiting.pop(0) not in {*waiting, *written}:
            path.unlink()
        layers[number] = {"mediaType": _TAR, **_moved(layout, draft)}
        written.add(layers[number]["digest"])
        config["rootfs"]["diff_ids"][number] = layers[number]["digest"]
    manifest["config"] |= _stored(layout, json.dumps(config).encode())
    descriptor |= _stored(layout, json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(index))
    return {
        "config": config.get("config"),
        "entries": counted.entries,
        "bytes": counted.size_b,
        "devices": counted.devices,
    }


class _Counted:
    """What the layers have so far, and how much they may have."""

    def __init__(self, entries_limit: int, bytes_limit: int) -> None:
        self._entries_limit = entries_limit
        self._bytes_limit = bytes_limit
        self.entries = self.size_b = self.devices = 0

    def add(self, member: tarfile.TarInfo) -> None:
        """Count an entry, before it is written."""
        self.entries += 1
        self.size_b += member.size if member.isreg() else 0
        if self.entries > self._entries_limit:
            raise Refused(f"The image has more than {self._entries_limit} files.")
        if self.size_b > self._bytes_limit:
            raise Refused(f"The layers of the image have more than {self._bytes_limit >> 20} MB.")


class _Header(tarfile.TarInfo):
    """A header that is read strictly: `tarfile` takes one that it cannot read for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header. Raises Refused: it is none."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined] - not in its types
            raise
        except tarfile.HeaderError as error:
            raise Refused("The image is damaged: a layer has a header that cannot be read.") from error


def _rewrite(layer: Path, draft: Path, counted: _Counted) -> None:
    """Write what was counted of a layer as the layer that is unpacked."""
    with (
        _opened(layer) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER_B, tarinfo=_Header) as source,
        draft.open("wb") as file,
        tarfile.open(fileobj=file, mode="w|", bufsize=_BUFFER_B, format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            counted.add(member)
            if member.isdev() and not member.isfifo():
                counted.devices += 1
            else:
                content = source.extractfile(member) if member.isreg() else None
                target.addfile(_plain(member), content)
            # Otherwise they keep all of them.
            source.members = target.members = []  # type: ignore[attr-defined] - not in its types


def _moved(layout: Path, draft: Path) -> dict[str, Any]:
    """Move a file among the blobs; return its descriptor."""
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size_b = draft.stat().st_size
    draft.rename(layout / "blobs" / "sha256" / digest)
    return {"digest": f"sha256:{digest}", "size": size_b}


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a header that says what `tarfile` understood and nothing else: another reader may understand the rest differently."""
    if member.isreg():
        member.type = tarfile.REGTYPE
    elif member.type in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        member.size = 0
    else:
        raise Refused("The image has entries of a kind that is not known.")
    member.pax_headers = {
        name: value for name, value in member.pax_headers.items() if name.startswith(_XATTR)
    }
    return member


def _stored(layout: Path, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _blob(layout: Path, descriptor: Any) -> Path:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or not digest.isalnum():
        raise Refused("The image has digests of another kind than SHA-256.")
    return layout / "blobs" / "sha256" / digest


def _json(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(_JSON_B + 1)
    if len(content) > _JSON_B:
        raise Refused("The manifest or configuration of the image is too large.")
    return json.loads(content)


@contextmanager
def _opened(layer: Path) -> Generator[IO[bytes]]:
    with layer.open("rb", buffering=_BUFFER_B) as file:
        magic = file.read(4)
        file.seek(0)
        if magic == _ZSTD:
            raise Refused(
                "The image has layers that are compressed with zstd, which cannot be unpacked; use gzip."
            )
        if magic.startswith(_GZIP):
            yield io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER_B)  # type: ignore[arg-type] - it has `readinto`
        else:
            yield file


def main() -> None:
    """Entry point."""
    layout, entries_limit, bytes_limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        report = check(layout, entries_limit, bytes_limit)
    except Refused as refusal:
        report = {"error": str(refusal)}
    except (
        OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, tarfile.TarError,
    ) as error:  # fmt: skip
        sys.stderr.write(f"{error!r}\n")
        report = {"error": "The image is damaged: its manifest, configuration or layers cannot be read."}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
