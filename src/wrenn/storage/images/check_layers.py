"""Checks an unpacked OCI layout before it is unpacked, and removes device nodes from its layers.

A program of its own, without imports of ours: it runs in a jail (`wrenn.linux.jail`), as layers are hostile input. It is called
with the layout's folder and the limits of entries and of bytes, and writes one line of JSON: `config`, `entries`, `bytes` and
`devices` (how many were removed), or `error`.

Nobody can create device nodes in a user namespace, and a guest has its own. A layer with one is written anew without them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import IO, Any

_BUFFER_B = 1 << 20
_JSON_B = 4 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LAYERS = 512
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
    entries = size_b = devices = 0
    for number, layer in enumerate(layers):
        path, has_devices = _blob(layout, layer), False
        with _opened(path) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER_B) as tar:
            for member in tar:
                entries += 1
                size_b += member.size if member.isreg() else 0
                if member.isdev() and not member.isfifo():
                    has_devices = True
                    devices += 1
                if entries > entries_limit:
                    raise Refused(f"The image has more than {entries_limit} files.")
                if size_b > bytes_limit:
                    raise Refused(f"The layers of the image have more than {bytes_limit >> 20} MB.")
                tar.members = []  # type: ignore[attr-defined] - otherwise it keeps all of them
        if has_devices:
            layers[number], config["rootfs"]["diff_ids"][number] = _without_devices(layout, path)
    if devices:
        manifest["config"] |= _stored(layout, json.dumps(config).encode())
        descriptor |= _stored(layout, json.dumps(manifest).encode())
        (layout / "index.json").write_text(json.dumps(index))
    return {"config": config.get("config"), "entries": entries, "bytes": size_b, "devices": devices}


def _without_devices(layout: Path, layer: Path) -> tuple[dict[str, Any], str]:
    """Write the layer anew; return its descriptor and its digest."""
    draft = layout / "layer"
    with (
        _opened(layer) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER_B) as source,
        draft.open("wb") as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            if not member.isdev() or member.isfifo():
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
            source.members = target.members = []  # type: ignore[attr-defined] - as above
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size_b = draft.stat().st_size
    layer.unlink()
    draft.rename(layout / "blobs" / "sha256" / digest)
    return {"mediaType": _TAR, "digest": f"sha256:{digest}", "size": size_b}, f"sha256:{digest}"


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


def _opened(layer: Path) -> IO[bytes]:
    file = layer.open("rb", buffering=_BUFFER_B)
    magic = file.read(4)
    file.seek(0)
    if magic == _ZSTD:
        raise Refused(
            "The image has layers that are compressed with zstd, which cannot be unpacked; use gzip."
        )
    if magic.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER_B)  # type: ignore[arg-type] - it has `readinto`
    return file


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
