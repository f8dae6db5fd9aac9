"""What agents report becomes values of the control plane (`control/hosts/messages.py`)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from wrenn.base.errors import AgentFailure
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.control.hosts import HostSandboxState
from wrenn.control.hosts.messages import (
    decoded,
    file_of,
    guest_processes_of,
    listeners_of,
    newest_samples_of,
    report_of,
    sandbox_of,
    sandboxes_of,
    snapshot_of,
    snapshots_of,
)
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.samples import NEWEST_LIMIT


def test_every_state_of_a_sandbox_has_a_value_of_its_own() -> None:
    sandbox_id = str(SandboxId.new())
    states = [sandbox_of(pb.Sandbox(sandbox_id=sandbox_id, state=state)).state for state in pb.SandboxState]
    assert sorted(states) == sorted(HostSandboxState)


def test_ids_that_cannot_be_read_are_a_failure_of_the_agent() -> None:
    with pytest.raises(AgentFailure):
        sandbox_of(pb.Sandbox(sandbox_id="../etc"))
    with pytest.raises(AgentFailure):
        snapshot_of(pb.Snapshot(snapshot_id=""))


def test_a_broken_link_is_a_link_and_a_socket_counts_as_a_file() -> None:
    link = file_of(pb.FileEntry(symlink_target="/none", kind=pb.FileKind.SYMLINK, is_broken=True))
    assert (link.type, link.kind, link.is_broken) == ("symlink", "symlink", True)
    socket = file_of(pb.FileEntry(type=pb.FileType.FILE, kind=pb.FileKind.SOCKET))
    assert (socket.type, socket.kind) == ("file", "socket")


def test_a_bad_id_is_quoted_in_part_only() -> None:
    with pytest.raises(AgentFailure) as failure:
        sandbox_of(pb.Sandbox(sandbox_id="x" * 100_000))
    assert len(failure.value.message) < 200


def test_texts_are_cut_and_have_no_control_characters() -> None:
    sandbox = sandbox_of(
        pb.Sandbox(
            sandbox_id=str(SandboxId.new()),
            reason="a\x00b\x1b[31m\nc\x85" + "é" * 10_000,
            host_ip="1" * 1_000,
            metadata={"k\x00" + "k" * 10_000: "v\x00" + "v" * 10_000},
        )
    )
    assert sandbox.reason == "a b [31m c " + "é" * 989
    assert sandbox.host_ip == "1" * 64
    assert sandbox.metadata == {"k " + "k" * 254: "v " + "v" * 998}
    report = report_of(pb.Host(agent_version="1\x00", vmm="q" * 300, warm_up_failure="f\x00" * 1_000))
    assert (report.agent_version, report.vmm) == ("1 ", "q" * 256)
    assert report.warm_up_failure == "f " * 500


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu_cores": 2**31},
        {"sandbox_limit": 2**31},
        {"memory_b": 2**63},
        {"memory_available_b": 2**63},
        {"disk_b": 2**63},
        {"disk_available_b": 2**63},
        {"sandbox_disk_b": 2**63},
        {"templates": ["t"] * 1_001},
        {"templates": ["t" * 257]},
        {"templates": ["t" * 33] * 1_000},
        {"templates": ["t\x00"]},
        {"templates": [""]},
        {"templates": ["t"], "template_contents": {"t": "0" * 65}},
        {"templates": ["t"], "template_contents": {"t": "no digest"}},
        {"templates": ["t"], "template_contents": {"other": "0" * 64}},
    ],
    ids=str,
)
def test_a_report_that_cannot_be_stored_is_a_failure_of_the_agent(fields: Mapping[str, object]) -> None:
    with pytest.raises(AgentFailure) as failure:
        report_of(pb.Host(**fields))  # pyright: ignore[reportArgumentType] - fields of several types
    assert len(failure.value.message) < 200


def test_the_largest_report_is_accepted() -> None:
    host = pb.Host(cpu_cores=2**31 - 1, memory_b=2**63 - 1, templates=["t" * 32] * 1_000)
    report = report_of(host)
    assert (report.cpu_cores, report.memory_b, len(report.templates)) == (2**31 - 1, 2**63 - 1, 1_000)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), float("-inf"), -1.0, 1e300])
def test_a_time_that_cannot_be_stored_is_a_failure_of_the_agent(time: float) -> None:
    with pytest.raises(AgentFailure):
        sandbox_of(pb.Sandbox(sandbox_id=str(SandboxId.new()), last_active_at_unix=time))


def test_numbers_of_sandboxes_and_snapshots_fit_their_columns() -> None:
    with pytest.raises(AgentFailure):
        sandbox_of(pb.Sandbox(sandbox_id=str(SandboxId.new()), network_revision=2**63))
    for snapshot in (pb.Snapshot(vcpus=2**31), pb.Snapshot(memory_mb=2**31), pb.Snapshot(size_b=2**63)):
        snapshot.snapshot_id = str(SnapshotId.new())
        with pytest.raises(AgentFailure):
            snapshot_of(snapshot)


def test_lists_are_bounded() -> None:
    sandbox = pb.Sandbox(sandbox_id=str(SandboxId.new()), metadata={str(i): "" for i in range(101)})
    with pytest.raises(AgentFailure):
        sandbox_of(sandbox)
    with pytest.raises(AgentFailure):
        sandboxes_of(pb.ListSandboxesResponse(sandboxes=[pb.Sandbox()] * 20_001))
    with pytest.raises(AgentFailure):
        snapshots_of(pb.ListSnapshotsResponse(snapshots=[pb.Snapshot()] * 20_001))


@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x0a\x05a", b"\x0b" * 5_000]
)
def test_an_answer_that_cannot_be_decoded_is_a_failure_of_the_agent(body: bytes) -> None:
    with pytest.raises(AgentFailure):
        decoded(pb.Host, body)


@pytest.mark.parametrize(
    "body",
    [b"\x0a\x00" * 600_000, b"\x0a\x80\x12" + b"\x52\x00" * 1152 + b"\x0a\x00" * 499_999],
    ids=["entries", "entries and what is in them"],
)
def test_an_answer_with_too_many_entries_is_not_decoded(body: bytes) -> None:
    with pytest.raises(AgentFailure, match="cannot be read"):
        decoded(pb.ListSandboxesResponse, body)


def test_the_longest_list_of_files_is_decoded() -> None:
    entry = pb.FileEntry(
        name="a" * 20, type=pb.FileType.FILE, path="/root/" + "a" * 20, kind=pb.FileKind.SYMLINK, size_b=1, mode=0o644, permissions="-rw-r--r--",
        owner="root", group="root", modified_at_unix=1, symlink_target="/none", is_broken=True,
    )  # fmt: skip
    body = pb.ListDirResponse(entries=[entry] * 20_000).to_binary()
    assert len(decoded(pb.ListDirResponse, body).entries) == 20_000


def test_what_a_guest_runs_and_listens_on_is_bounded() -> None:
    def ports(count: int) -> pb.ListListenersResponse:
        return pb.ListListenersResponse(listeners=[pb.Listener(port=80)] * count)

    def programs(count: int) -> pb.ListAllProcessesResponse:
        return pb.ListAllProcessesResponse(processes=[pb.GuestProcess(pid=1)] * count)

    assert len(listeners_of(ports(256))) == 256
    assert len(guest_processes_of(programs(1024)).processes) == 1024
    with pytest.raises(AgentFailure, match="257 listeners"):
        listeners_of(ports(257))
    with pytest.raises(AgentFailure, match="1025 processes"):
        guest_processes_of(programs(1025))


def test_samples_of_a_host_are_bounded() -> None:
    def samples(count: int) -> pb.GetNewestSamplesResponse:
        return pb.GetNewestSamplesResponse(samples=[pb.NewestSample()] * count)

    assert len(newest_samples_of(samples(NEWEST_LIMIT))) == NEWEST_LIMIT
    with pytest.raises(AgentFailure, match="4097 samples"):
        newest_samples_of(samples(NEWEST_LIMIT + 1))
