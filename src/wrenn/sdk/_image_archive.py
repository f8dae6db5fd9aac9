"""A local container image as the file that is uploaded: a tar file as it is, or an OCI layout that is packed."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO, Final, cast

from wrenn.base.units import MIB
from wrenn.sdk.errors import InvalidRequestError

LIMIT_B: Final = 100 * MIB
_LAYOUT: Final = "oci-layout"


def packed_image(path: Path) -> BinaryIO:
    """Return the open file with the image, at its beginning. The same files always give the same bytes.

    Raises:
        InvalidRequestError: it is no OCI layout, or larger than the platform takes. OSError: it cannot be read.
    """
    if not path.is_dir():
        if path.stat().st_size > LIMIT_B:
            raise _too_large()
        return path.open("rb")
    if not (path / _LAYOUT).is_file():
        raise InvalidRequestError(f"{path} is no OCI layout: it has no file {_LAYOUT}.")
    out = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for file in sorted(path.rglob("*")):
                if not file.is_file() or file.is_symlink():
                    continue
                member = tarfile.TarInfo(file.relative_to(path).as_posix())
                member.size = file.stat().st_size
                member.mode = 0o644
                if out.tell() + member.size > LIMIT_B:
                    raise _too_large()
                with file.open("rb") as content:
                    archive.addfile(member, content)
    except BaseException:
        out.close()
        raise
    out.seek(0)
    return out


def _too_large() -> InvalidRequestError:
    return InvalidRequestError(
        f"The image is larger than the {LIMIT_B // MIB} MiB that can be uploaded: push it to a registry and import it from there."
    )
