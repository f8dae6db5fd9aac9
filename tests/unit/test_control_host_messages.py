"""What agents report becomes values of the control plane (`control/hosts/messages.py`)."""

from __future__ import annotations

import pytest

from wrenn.base.errors import AgentFailure
from wrenn.base.ids import SandboxId
from wrenn.control.hosts import HostSandboxState
from wrenn.control.hosts.messages import file_of, sandbox_of, snapshot_of
from wrenn.protocol.host import host_pb as pb


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
