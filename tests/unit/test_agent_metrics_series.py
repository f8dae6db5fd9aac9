"""The tiers of one sandbox's samples (`agent/metrics/series.py`), their packed form, and the outbox."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from wrenn.agent.metrics import outbox as outbox_module
from wrenn.agent.metrics.outbox import Outbox
from wrenn.agent.metrics.series import Batch, Series
from wrenn.base.ids import SandboxId
from wrenn.protocol.api import METRICS_BODY_LIMIT_B
from wrenn.protocol.samples import (
    SAMPLE_B,
    Sample,
    Tier,
    is_sound,
    merge_samples,
    unpack_samples,
)

START_MS = 1_800_000_000_000


def sample(number: int, **fields: float | None) -> Sample:
    """The sample of this number: one every half second."""
    values = {"cpu_pct": 0.0, "net_in_b_per_s": 0.0, "net_out_b_per_s": 0.0, "mem_b": 4096, **fields}
    return Sample(at_ms=START_MS + 500 * number, **values)  # type: ignore[arg-type]


def filled(count: int, **fields: float | None) -> Series:
    series = Series(SandboxId.new())
    for number in range(count):
        series.add(sample(number, **fields))
    return series


def read(series: Series, tier: Tier, since_ms: int = 0) -> list[Sample]:
    return list(unpack_samples(series.since(tier, since_ms)))


def test_a_sample_survives_its_packed_form_and_keeps_what_is_not_known():
    whole = Sample(START_MS, 12.5, 1024.0, 2048.0, 4096, 2048, 8192, 1024, 5 << 40, None, 0)
    assert len(whole.pack()) == SAMPLE_B
    (found,) = unpack_samples(whole.pack())
    # More than the form can hold is the most that it can.
    assert found.guest_mem_available_b == (0xFFFF_FFFE) * 1024
    assert found.guest_disk_used_b is None
    assert found.guest_disk_total_b == 0
    assert (found.at_ms, found.cpu_pct, found.mem_b, found.disk_b) == (START_MS, 12.5, 4096, 8192)


def test_each_tier_keeps_its_number_of_samples_and_no_more():
    series = filled(1200 * 20)
    assert len(read(series, Tier.FINE)) == 1200
    assert len(read(series, Tier.MEDIUM)) == 240
    assert len(read(series, Tier.COARSE)) == 40
    many = Series(SandboxId.new())
    for number in range(600 * 300):
        many.add(sample(number))
    assert len(read(many, Tier.COARSE)) == 288
    for tier in Tier:
        times = [found.at_ms for found in read(many, tier)]
        assert times == sorted(set(times))
        assert times[-1] == START_MS + 500 * (600 * 300 - 1)


@pytest.mark.parametrize("count", [1, 5, 1199, 1200, 1201, 1777, 2400, 3001])
def test_a_range_begins_where_it_is_asked_to_however_far_the_ring_has_turned(count: int):
    series = filled(count)
    kept = range(max(0, count - 1200), count)
    for back in (0, 1, 7, 599, 1199):
        since = START_MS + 500 * (count - 1 - back)
        wanted = [START_MS + 500 * n for n in kept if START_MS + 500 * n >= since]
        assert [found.at_ms for found in read(series, Tier.FINE, since)] == wanted
    assert read(series, Tier.FINE, START_MS + 500 * count) == []


def test_a_mean_has_the_time_of_its_last_sample_and_leaves_out_what_was_not_known():
    series = Series(SandboxId.new())
    for number in range(60):
        known = 1024 * 100 if number < 10 else None
        series.add(sample(number, cpu_pct=100.0 * (number % 2), guest_mem_used_b=known))
    (mean,) = read(series, Tier.MEDIUM)
    assert mean.cpu_pct == pytest.approx(50.0)
    assert mean.at_ms == START_MS + 500 * 59
    assert mean.guest_mem_used_b == 1024 * 100
    assert mean.guest_disk_used_b is None


def test_what_is_no_whole_mean_yet_is_shown_and_stays_out_of_what_is_sent():
    series = filled(70, cpu_pct=30.0)
    shown = read(series, Tier.MEDIUM)
    assert [found.at_ms for found in shown] == [START_MS + 500 * 59, START_MS + 500 * 69]
    (coarse,) = read(series, Tier.COARSE)
    assert coarse.cpu_pct == pytest.approx(30.0)
    assert coarse.at_ms == START_MS + 500 * 69
    assert [batch.tier for batch in series.take_unsent(Tier.MEDIUM, Tier.COARSE)] == [Tier.MEDIUM]


def test_each_sample_is_taken_for_the_control_plane_once_and_the_end_takes_the_rest():
    series = filled(60 * 11)
    first = series.take_unsent(Tier.MEDIUM, Tier.COARSE)
    assert {batch.tier: len(batch.packed) // SAMPLE_B for batch in first} == {Tier.MEDIUM: 11, Tier.COARSE: 1}
    assert series.take_unsent(Tier.MEDIUM, Tier.COARSE) == []
    for number in range(60 * 11, 60 * 11 + 20):
        series.add(sample(number))
    series.finish()
    rest = {batch.tier: len(batch.packed) // SAMPLE_B for batch in series.take_unsent(*Tier)}
    assert rest == {Tier.FINE: 680, Tier.MEDIUM: 1, Tier.COARSE: 1}


def test_a_clock_that_is_set_back_adds_nothing_until_it_is_far_behind():
    series = filled(10)
    series.add(sample(3))
    assert len(read(series, Tier.FINE)) == 10
    assert not series.is_set_back(sample(9).at_ms - 5_000)
    assert series.is_set_back(sample(9).at_ms - 5_001)
    assert not Series(SandboxId.new()).is_set_back(0)


def test_samples_of_two_places_are_merged_each_once():
    packed = [sample(number).pack() for number in range(6)]
    merged = merge_samples([b"".join(packed[3:]), b"".join(packed[:5])], since_ms=START_MS + 500)
    assert merged == b"".join(packed[1:])
    assert merge_samples([], since_ms=0) == b""


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"x" * (SAMPLE_B - 1),
        sample(2).pack() + sample(2).pack(),
        sample(2).pack() + sample(1).pack(),
        sample(1, cpu_pct=float("nan")).pack(),
        sample(1, cpu_pct=101.0).pack(),
        sample(1, net_in_b_per_s=float("inf")).pack(),
        sample(1, net_out_b_per_s=-1.0).pack(),
        b"".join(sample(n).pack() for n in range(289)),
    ],
)
def test_samples_that_are_not_possible_are_found_out(packed: bytes):
    assert not is_sound(packed, most=Tier.COARSE.capacity)


def test_the_outbox_outlives_its_owner_in_order_and_in_bodies_that_are_accepted(tmp_path: Path):
    outbox = Outbox(tmp_path / "metrics")
    outbox.open()
    ids = [SandboxId.new() for _ in range(30)]
    packed = b"".join(sample(number).pack() for number in range(1200))
    outbox.add([Batch(sandbox_id, Tier.FINE, packed) for sandbox_id in ids])
    (tmp_path / "metrics" / "000000000099.new").write_bytes(b"half")
    later = Outbox(tmp_path / "metrics")
    later.open()
    later.add([Batch(ids[0], Tier.COARSE, sample(1).pack())])
    bodies = [path.read_bytes() for path in later.files()]
    assert len(bodies) > 2
    assert max(map(len, bodies)) < METRICS_BODY_LIMIT_B
    series = [each for body in bodies for each in json.loads(body)["series"]]
    assert [each["sandbox_id"] for each in series] == [str(each) for each in [*ids, ids[0]]]
    assert base64.b64decode(series[0]["samples"]) == packed
    assert not list((tmp_path / "metrics").glob("*.new"))


def test_the_outbox_gives_up_the_oldest_samples_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox_module, "_LIMIT_B", 1000)
    outbox = Outbox(tmp_path / "metrics")
    outbox.open()
    for number in range(20):
        outbox.add([Batch(SandboxId.new(), Tier.COARSE, sample(number).pack())])
    left = outbox.files()
    assert 1 <= len(left) < 10
    assert sum(path.stat().st_size for path in left) <= 1000
    assert left[-1].stem == f"{20:012}"


def test_the_outbox_makes_one_body_of_several_files_within_the_limits_of_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    outbox = Outbox(tmp_path / "metrics")
    outbox.open()
    assert outbox.next_body()[1] == []
    ids = [SandboxId.new() for _ in range(6)]
    for sandbox_id in ids[:5]:
        outbox.add([Batch(sandbox_id, Tier.COARSE, sample(1).pack())])
    (tmp_path / "metrics" / "000000000003.json").write_bytes(b'{"series"')
    body, files = outbox.next_body()
    assert [each["sandbox_id"] for each in json.loads(body)["series"]] == [
        str(each) for number, each in enumerate(ids[:5], 1) if number != 3
    ]
    assert files == outbox.files()
    monkeypatch.setattr(outbox_module, "METRICS_SERIES_LIMIT", 2)
    outbox.add([Batch(ids[5], tier, sample(1).pack()) for tier in Tier])
    sizes: list[int] = []
    while (taken := outbox.next_body())[1]:
        sizes.append(len(json.loads(taken[0])["series"]))
        for path in taken[1]:
            outbox.remove(path)
    assert sizes == [2, 2, 2, 1]
    monkeypatch.setattr(outbox_module, "_BODY_B", 300)
    for sandbox_id in ids[:2]:
        outbox.add([Batch(sandbox_id, Tier.COARSE, sample(1).pack() + sample(2).pack())])
    assert len(outbox.next_body()[1]) == 1
