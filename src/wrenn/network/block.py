"""A block is one installation's share of a machine's names and addresses: 1 of 16, with 4094 slots.

An installation claims a block by the file `<run dir>/blocks/<index>`, which contains the path of the data
folder. It is in `/run`, as the namespaces are: a reboot removes both.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from wrenn.base.errors import InvalidRequest, NoCapacity
from wrenn.base.networks import ALL_SLOTS

BLOCK_COUNT: Final = 16
SLOT_LIMIT: Final = 4094
"""Slots 1…4094 of a block: the first and last address are not used, as in any /20."""

_BLOCK_SIZE: Final = ALL_SLOTS.num_addresses // BLOCK_COUNT
_RUN_DIR: Final = Path("/run/wrenn")


@dataclass(frozen=True, slots=True)
class Block:
    """Names and addresses of one installation. All are computed from the index, so that a sweep needs no records."""

    index: int

    def __post_init__(self) -> None:
        assert 0 <= self.index < BLOCK_COUNT, "blocks are numbered 0 to 15"

    @property
    def subnet(self) -> IPv4Network:
        """The network with the addresses of all its slots."""
        return IPv4Network((int(ALL_SLOTS.network_address) + _BLOCK_SIZE * self.index, 20))

    @property
    def table(self) -> str:
        """Name of its nft table in the root namespace, family inet."""
        return f"wrenn_{self.index}"

    @property
    def host_link_prefix(self) -> str:
        """Prefix of the names of all its veths on the host."""
        return f"wr{self.index}v"

    def address(self, slot: int) -> IPv4Address:
        """The address at which the host reaches the sandbox in `slot`."""
        return self.subnet.network_address + _checked(slot)

    def namespace(self, slot: int) -> str:
        """Name of the slot's network namespace."""
        return f"wrenn-{self.index}-{_checked(slot)}"

    def host_link(self, slot: int) -> str:
        """Name of the end of the slot's veth in the root namespace."""
        return f"{self.host_link_prefix}{_checked(slot)}"

    def slot_of(self, name: str) -> int | None:
        """Return the slot of a namespace or host link by its name, or None if it is not one of this block."""
        match = re.fullmatch(rf"(?:wrenn-{self.index}-|wr{self.index}v)([1-9]\d{{0,3}})", name)
        slot = int(match[1]) if match else 0
        return slot if 1 <= slot <= SLOT_LIMIT else None


def claim_block(data_dir: Path, *, run_dir: Path = _RUN_DIR) -> Block:
    """Return the block of the installation in `data_dir`, and claim the first free one if it has none.

    A claim whose data folder no longer exists counts as free.

    Raises:
        InvalidRequest: `data_dir` is not a folder.
        NoCapacity: all blocks belong to other installations.
    """
    owner = data_dir.resolve()
    if not owner.is_dir():
        raise InvalidRequest(
            f"The data folder {data_dir} does not exist; create it before claiming a network block."
        )
    with _locked(run_dir / "blocks") as blocks:
        claims = _read_claims(blocks)
        mine = [index for index, claimant in claims.items() if claimant == owner]
        free = [index for index in range(BLOCK_COUNT) if index not in claims or not claims[index].is_dir()]
        if not mine + free:
            raise NoCapacity(
                f"All {BLOCK_COUNT} network blocks of this machine are claimed; remove an installation first."
            )
        index = (mine + free)[0]
        _write_claim(blocks / str(index), owner)
    return Block(index)


def find_block(data_dir: Path, *, run_dir: Path = _RUN_DIR) -> Block | None:
    """Return the block of the installation in `data_dir`, or None if it has none. Changes nothing."""
    owner = data_dir.resolve()
    return next(
        (Block(i) for i, claimant in _read_claims(run_dir / "blocks").items() if claimant == owner), None
    )


def release_block(data_dir: Path, *, run_dir: Path = _RUN_DIR) -> None:
    """Release the block of the installation in `data_dir`, if it has one."""
    owner = data_dir.resolve()
    with _locked(run_dir / "blocks") as blocks:
        for index, claimant in _read_claims(blocks).items():
            if claimant == owner:
                (blocks / str(index)).unlink()


def vanished_blocks(*, run_dir: Path = _RUN_DIR) -> dict[Block, Path]:
    """Return the blocks whose data folder no longer exists, each with the path of that folder. Changes nothing."""
    claims = _read_claims(run_dir / "blocks")
    return {Block(index): claimant for index, claimant in claims.items() if not claimant.is_dir()}


def unclaimed_blocks(*, run_dir: Path = _RUN_DIR) -> list[Block]:
    """Return the blocks that no installation has claimed."""
    claims = _read_claims(run_dir / "blocks")
    return [Block(index) for index in range(BLOCK_COUNT) if index not in claims]


@contextmanager
def reclaim_block(block: Block, *, run_dir: Path = _RUN_DIR) -> Generator[bool]:
    """Reclaim the block of a vanished installation: nobody can claim it within the context, and it is free afterwards.

    Yields False if its data folder exists (again) or another installation has claimed the block; then it is
    not released.
    """
    with _locked(run_dir / "blocks") as blocks:
        claimant = _read_claims(blocks).get(block.index)
        vanished = claimant is not None and not claimant.is_dir()
        yield vanished
        if vanished:
            (blocks / str(block.index)).unlink()


def _checked(slot: int) -> int:
    assert 1 <= slot <= SLOT_LIMIT, "slots are numbered 1 to 4094"
    return slot


@contextmanager
def _locked(blocks: Path) -> Generator[Path]:
    """Hold the lock on the folder of claims. The kernel releases it if the process dies."""
    blocks.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(blocks, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield blocks
    finally:
        os.close(descriptor)


def _read_claims(blocks: Path) -> dict[int, Path]:
    claims: dict[int, Path] = {}
    for index in range(BLOCK_COUNT):
        claim = blocks / str(index)
        if claim.exists():
            claims[index] = Path(claim.read_text().rstrip("\n"))
    return claims


def _write_claim(claim: Path, owner: Path) -> None:
    """Replace the claim atomically: after a crash a reader sees either the old or the new one."""
    fresh = claim.with_suffix(".new")
    fresh.write_text(f"{owner}\n")
    fresh.replace(claim)
