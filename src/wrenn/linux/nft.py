"""Changes the firewall by atomic batches of nft JSON commands; one process for each batch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

from wrenn.linux.command import run
from wrenn.linux.namespaces import namespace_path

NftCommand: TypeAlias = Mapping[str, object]
"""One command of libnftables-json(5), such as `{"add": {"table": {"family": "inet", "name": "t"}}}`."""

_TIMEOUT_S: Final = 30.0
"""It takes 10 ms. The first call after a boot loads modules, which takes seconds on a slow host."""


async def apply_batch(commands: Sequence[NftCommand], *, namespace: str | None = None) -> None:
    """Apply `commands` atomically in `namespace` (None: the caller's).

    Raises:
        CommandError: nft or the kernel refused one; nothing was changed.
    """
    # Not on standard input: nft opens /dev/stdin again, which fails if that is a socket, as under uvloop.
    with os.fdopen(os.memfd_create("nft batch"), "wb") as batch:
        batch.write(json.dumps({"nftables": list(commands)}).encode())
        batch.flush()
        await _nft(["-f", f"/proc/self/fd/{batch.fileno()}"], namespace, pass_fds=[batch.fileno()])


async def list_tables(*, namespace: str | None = None) -> set[str]:
    """Return the names of all tables of the family `inet`."""
    listing = json.loads(await _nft(["list", "tables", "inet"], namespace))
    objects = cast("list[dict[str, dict[str, str]]]", listing["nftables"])
    return {entry["table"]["name"] for entry in objects if "table" in entry}


async def _nft(arguments: list[str], namespace: str | None, *, pass_fds: Sequence[int] = ()) -> bytes:
    enter = [] if namespace is None else ["nsenter", f"--net={namespace_path(namespace)}"]
    return await run([*enter, "nft", "-j", *arguments], timeout_s=_TIMEOUT_S, pass_fds=pass_fds)
