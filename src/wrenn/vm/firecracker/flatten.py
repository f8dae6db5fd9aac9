"""Writes the content of a disk into a raw image: a copy of the base's image, with the chunks of each layer in their places.

No VMM and no device is needed for that. The kernel alone wrote the layers' tables, and each is checked before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from wrenn.linux.files import copy_file, translated
from wrenn.linux.threads import run_to_end
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm.driver import FlattenRequest
from wrenn.vm.firecracker import cow_file
from wrenn.vm.firecracker.device_stack import StackFiles
from wrenn.vm.firecracker.disks import DmDisks

_PIECES: Final = 16
"""Of a MiB each, between two reports of the progress."""


async def flatten(disks: DmDisks, request: FlattenRequest) -> None:
    """Implement `Driver.flatten`. A cancellation takes effect after the pieces that are being written."""
    files = disks.files_of(request.disk)
    try:
        await run_to_end(partial(_begin, files.image, request.image, request.size_b))
        total_b = await run_to_end(partial(_changed_b, files))
        with closing(_apply(files, request.image)) as pieces:
            done_b = 0
            while some := await run_to_end(partial(_take, pieces)):
                done_b += sum(some)
                request.on_progress(done_b, total_b)
    except FileNotFoundError as error:
        raise DamagedSnapshot("A part of the disk is missing.") from error
    except OSError as error:
        raise translated(error, doing="write the image") from error


def _begin(image: Path, copy: Path, size_b: int) -> None:
    copy_file(image, copy)
    os.truncate(copy, size_b)


def _changed_b(files: StackFiles) -> int:
    return sum(len(cow_file.inspect(file).chunks) for _, file in files.layers) * cow_file.CHUNK_B


def _apply(files: StackFiles, image: Path) -> Generator[int]:
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _, file in reversed(files.layers):
            yield from cow_file.apply(file, fd)
    finally:
        os.close(fd)


def _take(pieces: Iterator[int]) -> list[int]:
    return list(islice(pieces, _PIECES))
