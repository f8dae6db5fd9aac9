"""What an installation leaves on the machine when its data folder is removed by hand."""

from __future__ import annotations

from pathlib import Path

from wrenn import network
from wrenn.agent.doctor.vanished import find_vanished, remove_installation
from wrenn.agent.layout import Layout
from wrenn.linux import cgroups
from wrenn.linux.namespaces import create_namespace, list_namespaces


async def test_leftovers_of_a_deleted_installation_are_found_and_removed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    layout = Layout(folder, network.claim_block(folder))
    namespace = layout.block.namespace(7)
    await create_namespace(namespace)
    cgroups.create(layout.cgroup("cl-gone"), cgroups.Limits(memory_b=1 << 26, cpus=1, pids=8))

    def mine(found: list[object]) -> set[tuple[str, str]]:
        return {(t.kind, t.name) for t in found if t.owner == str(folder)}  # type: ignore[attr-defined]

    assert mine([*await find_vanished()]) == set()
    await remove_installation(layout.block, folder)
    assert namespace in list_namespaces(), "an installation that is there is left alone"

    folder.rmdir()
    index = str(layout.block.index)
    expected = {("network", namespace), ("cgroup", "cl-gone"), ("block", index)}
    assert mine([*await find_vanished()]) == expected
    await remove_installation(layout.block, folder)
    assert mine([*await find_vanished()]) == set()
    assert namespace not in list_namespaces()
    assert not cgroups.exists(layout.cgroup_root)
