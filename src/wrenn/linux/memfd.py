"""Memory files that nobody can change any more."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from wrenn.linux.files import copy_sparse

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_copy(path: Path, *, name: str) -> int:
    """A memfd with the content of the sparse file `path`, sealed against write, grow and shrink.

    Who maps it privately sees the same pages as all others and can alter none of them. The caller owns the descriptor.
    """
    source = os.open(path, os.O_RDONLY)
    try:
        memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            copy_sparse(source, memory)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(memory)
            raise
        return memory
    finally:
        os.close(source)
