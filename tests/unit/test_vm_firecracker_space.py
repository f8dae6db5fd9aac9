"""How much disk space is taken ahead of what a sandbox writes."""

from __future__ import annotations

from wrenn.base.units import GIB, MIB
from wrenn.vm.firecracker import cow_file
from wrenn.vm.firecracker.space_allocator import ahead_b, granted_b


def test_a_layer_that_grows_fast_has_more_ahead_up_to_a_limit() -> None:
    assert ahead_b(0) == ahead_b(MIB) == 16 * MIB
    assert ahead_b(20 * MIB) == 80 * MIB
    assert ahead_b(GIB) == 256 * MIB


def test_the_reserve_of_the_host_is_not_granted() -> None:
    assert granted_b(16 * MIB, free_b=2 * GIB, reserve_b=GIB) == 16 * MIB
    assert granted_b(16 * MIB, free_b=GIB + 5 * MIB + 1, reserve_b=GIB) == 5 * MIB
    assert granted_b(16 * MIB, free_b=GIB + MIB - 1, reserve_b=GIB) == 0
    assert granted_b(16 * MIB, free_b=0, reserve_b=GIB) == 0


def test_what_content_takes_in_a_file_includes_its_tables() -> None:
    chunk_b = cow_file.CHUNK_B
    assert cow_file.space_b(0) == 0
    assert cow_file.space_b(1) == 2 * chunk_b
    assert cow_file.space_b(256 * chunk_b) == 257 * chunk_b
    assert cow_file.space_b(257 * chunk_b) == 259 * chunk_b
