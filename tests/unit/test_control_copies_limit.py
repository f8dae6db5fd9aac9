"""Which fetched snapshots leave a host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wrenn.base.ids import SnapshotId
from wrenn.control.snapshots.copies_limit import SnapshotCopy, copies_beyond, limit_of

COPIES = st.lists(
    st.builds(
        SnapshotCopy,
        snapshot_id=st.builds(SnapshotId.new),
        size_b=st.integers(0, 100),
        idle_s=st.floats(0, 1000),
        layers=st.dictionaries(st.sampled_from("abc"), st.just(50)),
    ),
    max_size=8,
)


def copy(size_b: int, idle_s: float, **layers: int) -> SnapshotCopy:
    return SnapshotCopy(SnapshotId.new(), size_b, idle_s, layers)


def test_those_that_were_not_used_for_longest_leave_first() -> None:
    old, middle, new = copy(10, 300.0), copy(10, 200.0), copy(10, 100.0)
    copies = [middle, new, old]
    assert copies_beyond(copies, None) == []
    assert copies_beyond(copies, 30) == []
    assert copies_beyond(copies, 29) == [old]
    assert copies_beyond(copies, 15) == [old, middle]
    assert copies_beyond(copies, 0) == [old, middle, new]


def test_a_layer_that_several_have_counts_once() -> None:
    old, new = copy(10, 200.0, shared=100), copy(10, 100.0, shared=100)
    assert copies_beyond([old, new], 120) == []
    assert copies_beyond([old, new], 119) == [old]
    assert copies_beyond([old, new], 109) == [old, new]


def test_where_the_disk_is_nearly_full_copies_take_less() -> None:
    copies = [copy(100, 200.0, shared=50), copy(100, 100.0, shared=50)]
    assert limit_of(copies, 1000, disk_b=10_000, available_b=1000) == 1000
    assert limit_of(copies, 0, disk_b=10_000, available_b=1000) is None
    assert limit_of(copies, 1000, disk_b=10_000, available_b=900) == 150
    assert limit_of(copies, 0, disk_b=10_000, available_b=900) == 150
    assert limit_of(copies, 60, disk_b=10_000, available_b=900) == 60
    assert limit_of(copies, 1000, disk_b=10_000, available_b=0) == 0
    assert limit_of(copies, 1000, disk_b=0, available_b=0) == 1000


@given(COPIES, st.integers(0, 600))
def test_what_stays_is_within_the_limit_and_was_used_later(copies: list[SnapshotCopy], limit_b: int) -> None:
    leaving = copies_beyond(copies, limit_b)
    staying = [each for each in copies if each not in leaving]
    assert copies_beyond(staying, limit_b) == []
    layers = {layer: size_b for each in staying for layer, size_b in each.layers.items()}
    assert sum(each.size_b for each in staying) + sum(layers.values()) <= limit_b
    if leaving and staying:
        assert min(each.idle_s for each in leaving) >= max(each.idle_s for each in staying)
