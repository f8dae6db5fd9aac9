"""Layers of container images: what is counted is what is unpacked, whatever another reader would find in the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from wrenn.storage.images.check_layers import Refused, check

ENTRIES = 100
BYTES = 1 << 20


def tar_of(*members: tarfile.TarInfo, content: bytes = b"content") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **values: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in values.items():
        setattr(member, field, value)
    return member


def layout_of(folder: Path, *layers: bytes) -> Path:
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def stored(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    config = {"config": {"Env": ["A=1"]}, "rootfs": {"diff_ids": ["sha256:" + "0" * 64 for _ in layers]}}
    manifest = {"config": stored(json.dumps(config).encode()), "layers": [stored(layer) for layer in layers]}
    index = {"manifests": [stored(json.dumps(manifest).encode())]}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def unpacked(layout: Path) -> list[dict[str, tarfile.TarInfo]]:
    """The entries of the layers that the layout has now; its digests are right."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        digest = descriptor["digest"].removeprefix("sha256:")
        content = (layout / "blobs/sha256" / digest).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert len(content) == descriptor["size"]
        return content

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]))
    config = json.loads(blob(manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    found: list[dict[str, tarfile.TarInfo]] = []
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(layer))) as tar:
            found.append({member.name: member for member in tar})
    return found


def test_layers_keep_what_they_have_but_devices(tmp_path: Path):
    xattr = {"SCHILY.xattr.security.capability": "\udcff\x01\x02"}
    first = tar_of(
        entry("usr", tarfile.DIRTYPE, mode=0o755),
        entry("usr/file-\udcff", uid=3_000_000, gid=7, mode=0o4755, mtime=1.5, pax_headers=xattr),
        entry("usr/link", tarfile.SYMTYPE, linkname="file" * 50),
        entry("usr/same", tarfile.LNKTYPE, linkname="usr/file"),
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
    )
    layout = layout_of(tmp_path / "layout", gzip.compress(first), first, gzip.compress(first))
    report = check(layout, ENTRIES, BYTES)
    assert report == {"config": {"Env": ["A=1"]}, "entries": 15, "bytes": 21, "devices": 3}
    layers = unpacked(layout)
    assert [list(layer) for layer in layers] == [["usr", "usr/file-\udcff", "usr/link", "usr/same"]] * 3
    file = layers[0]["usr/file-\udcff"]
    assert (file.uid, file.gid, file.mode, file.mtime, file.size) == (3_000_000, 7, 0o4755, 1.5, 7)
    assert file.pax_headers["SCHILY.xattr.security.capability"] == "\udcff\x01\x02"
    assert layers[0]["usr/link"].linkname == "file" * 50
    assert len(list((layout / "blobs/sha256").iterdir())) == 1 + 2 + 2, "layers are not there twice"


def test_a_header_that_only_another_reader_understands_is_refused(tmp_path: Path):
    """`tarfile` reads a checksum that begins with NUL as 0 and ends; Go's reader goes on."""
    archive = bytearray(tar_of(entry("a"), entry("b")))
    header = archive[1024:1536]
    header[148:156] = b" " * 8
    archive[1024 + 148 : 1024 + 156] = b"\0%06o\0" % sum(header)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["a"], "the attack works with this version of Python"
    with pytest.raises(Refused, match="header that cannot be read"):
        check(layout_of(tmp_path / "layout", bytes(archive)), ENTRIES, BYTES)


def test_an_entry_whose_end_two_readers_find_elsewhere_is_unpacked_as_it_was_counted(tmp_path: Path):
    """Of the old format, a file whose name ends with a slash: Go's reader skips its content, `tarfile` reads headers there."""
    cover = entry("cover")
    hidden = tar_of(entry("hidden-1"), entry("hidden-2"))[:2048]
    inner = tar_of(cover, content=b"x" * len(hidden))[:512]
    outer = entry("folder/", tarfile.AREGTYPE)
    outer.size = len(inner)
    archive = outer.tobuf(tarfile.USTAR_FORMAT) + inner + hidden + bytes(1024)
    layout = layout_of(tmp_path / "layout", archive)
    assert check(layout, ENTRIES, BYTES)["entries"] == 2
    assert list(unpacked(layout)[0]) == ["folder", "cover"]


def test_what_headers_for_all_entries_say_is_not_handed_on(tmp_path: Path):
    packed = io.BytesIO()
    headers = {"comment": "c", "LIBARCHIVE.creationtime": "5"}
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        tar.addfile(entry("file"))
    layout = layout_of(tmp_path / "layout", packed.getvalue())
    check(layout, ENTRIES, BYTES)
    assert unpacked(layout)[0]["file"].pax_headers == {}


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (tar_of(*(entry(f"f{number}") for number in range(ENTRIES + 1))), "more than 100 files"),
        (tar_of(entry("large"), content=bytes(BYTES + 1)), "more than 1 MB"),
        (tar_of(entry("strange", b"Z")), "kind that is not known"),
    ],
)
def test_what_is_too_much_or_unknown_is_refused(tmp_path: Path, archive: bytes, message: str):
    with pytest.raises(Refused, match=message):
        check(layout_of(tmp_path / "layout", archive), ENTRIES, BYTES)
