"""Local container images that are uploaded."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from wrenn.sdk import Template
from wrenn.sdk import _image_archive as image_archive
from wrenn.sdk.errors import InvalidRequestError


def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "layout"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text("{}")
    (folder / "blobs" / "sha256" / "a").write_bytes(b"content")
    (folder / "outside").symlink_to("/etc/passwd")
    return folder


def test_a_layout_is_packed_alike_each_time_and_without_links(tmp_path: Path) -> None:
    folder = layout(tmp_path)
    with image_archive.packed_image(folder) as first:
        data = first.read()
    os.utime(folder / "oci-layout", (1, 1))
    with image_archive.packed_image(folder) as second:
        assert second.read() == data
        second.seek(0)
        with tarfile.open(fileobj=second) as archive:
            assert archive.getnames() == ["blobs/sha256/a", "oci-layout"]


def test_what_is_too_large_or_no_layout_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.tar"
    with large.open("wb") as file:
        file.truncate(image_archive.LIMIT_B + 1)
    with pytest.raises(InvalidRequestError, match="100 MiB"):
        image_archive.packed_image(large)
    folder = layout(tmp_path)
    large.rename(folder / "blobs" / "large")
    with pytest.raises(InvalidRequestError, match="100 MiB"):
        image_archive.packed_image(folder)
    with pytest.raises(InvalidRequestError, match="no OCI layout"):
        image_archive.packed_image(folder / "blobs")


def test_a_template_from_an_archive_copies_no_files(tmp_path: Path) -> None:
    template = Template(context=tmp_path).from_archive(layout(tmp_path), kind="oci")
    assert template.notes() == ()
    with pytest.raises(InvalidRequestError, match="copies no files"):
        template.copy("a", to="/b").notes()
