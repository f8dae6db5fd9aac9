"""Names, addresses and claims of network blocks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from wrenn.base.errors import InvalidRequest, NoCapacity
from wrenn.network import SLOT_LIMIT, Block, claim_block, release_block

LINK_NAME_LIMIT = 15


def test_blocks_divide_the_slot_network_without_overlap():
    subnets = [Block(index).subnet for index in range(16)]
    assert subnets[0] == IPv4Network("10.11.0.0/20")
    assert subnets[15] == IPv4Network("10.11.240.0/20")
    assert len({address for subnet in subnets for address in (subnet[0], subnet[-1])}) == 32


def test_the_first_and_last_slot_lie_inside_the_subnet():
    block = Block(3)
    assert block.address(1) == IPv4Address("10.11.48.1")
    assert block.address(SLOT_LIMIT) == IPv4Address("10.11.63.254")
    assert block.address(300) == IPv4Address(int(IPv4Address("10.11.0.0")) + 4096 * 3 + 300)


def test_the_longest_name_fits_the_kernel():
    assert len(Block(15).host_link(SLOT_LIMIT)) <= LINK_NAME_LIMIT


def test_names_lead_back_to_the_slot():
    block = Block(1)
    assert block.slot_of(block.namespace(17)) == 17
    assert block.slot_of(block.host_link(4094)) == 4094


@pytest.mark.parametrize(
    "name", ["wrenn-11-1", "wrenn-1-", "wrenn-1-0", "wrenn-1-01", "wrenn-1-4095", "wr15v1", "wr1v1x", "eth0"]
)
def test_names_of_others_lead_nowhere(name: str):
    assert Block(1).slot_of(name) is None


def test_claiming_twice_gives_the_same_block(tmp_path: Path):
    mine, other = _folders(tmp_path, 2)
    assert claim_block(mine, run_dir=tmp_path / "run") == Block(0)
    assert claim_block(other, run_dir=tmp_path / "run") == Block(1)
    assert claim_block(mine, run_dir=tmp_path / "run") == Block(0)
    assert (tmp_path / "run/blocks/0").read_text() == f"{mine}\n"


def test_the_claim_of_a_removed_installation_is_taken_over(tmp_path: Path):
    gone, mine = _folders(tmp_path, 2)
    claim_block(gone, run_dir=tmp_path / "run")
    gone.rmdir()
    assert claim_block(mine, run_dir=tmp_path / "run") == Block(0)


def test_a_released_block_is_free(tmp_path: Path):
    first, second = _folders(tmp_path, 2)
    claim_block(first, run_dir=tmp_path / "run")
    release_block(first, run_dir=tmp_path / "run")
    release_block(first, run_dir=tmp_path / "run")
    assert claim_block(second, run_dir=tmp_path / "run") == Block(0)


def test_simultaneous_claims_get_different_blocks_until_none_is_left(tmp_path: Path):
    folders = _folders(tmp_path, 17)
    with ThreadPoolExecutor(16) as threads:
        blocks = list(threads.map(partial(claim_block, run_dir=tmp_path / "run"), folders[:16]))
    assert {block.index for block in blocks} == set(range(16))
    with pytest.raises(NoCapacity, match="network blocks"):
        claim_block(folders[16], run_dir=tmp_path / "run")


def test_a_data_folder_that_does_not_exist_gets_no_block(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="does not exist"):
        claim_block(tmp_path / "missing", run_dir=tmp_path / "run")


def _folders(parent: Path, count: int) -> list[Path]:
    folders = [parent / f"installation-{number}" for number in range(count)]
    for folder in folders:
        folder.mkdir()
    return folders
