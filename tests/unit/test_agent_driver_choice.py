"""Which virtual machine monitor an agent takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.agent import driver_choice
from wrenn.agent.driver_choice import choose_vmm
from wrenn.agent.layout import Layout
from wrenn.agent.settings import Settings, VmmChoice
from wrenn.base.errors import InvalidRequest, InvalidState
from wrenn.network import Block
from wrenn.vm.firecracker.pager import why_no_pager


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, Block(3))
    layout.sandboxes.mkdir()
    return layout


@pytest.fixture
def with_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with KVM and both programs; returns their folder."""

    async def usable(_folder: Path, *, is_in_use: bool = False) -> str:
        del is_in_use
        return ""

    monkeypatch.setattr(driver_choice, "why_no_kvm", lambda: "")
    monkeypatch.setattr(driver_choice, "why_not_usable", usable)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("firecracker", "jailer"):
        (programs / name).write_text("#!/bin/sh\necho v1.14.2\n")
        (programs / name).chmod(0o755)
    return programs


def settings(choice: str, programs: Path) -> Settings:
    return Settings.from_environment({"WRENN_VMM": choice, "WRENN_FIRECRACKER_DIR": str(programs)})


def test_an_unknown_monitor_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="auto, qemu or firecracker"):
        Settings.from_environment({"WRENN_VMM": "xen"})


async def test_firecracker_is_taken_where_it_can_be_used(layout: Layout, with_kvm: Path) -> None:
    assert await choose_vmm(settings("auto", with_kvm), layout) is VmmChoice.FIRECRACKER
    assert await choose_vmm(settings("qemu", with_kvm), layout) is VmmChoice.QEMU


async def test_qemu_is_taken_without_kvm_or_without_the_programs(
    layout: Layout, with_kvm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert await choose_vmm(settings("auto", tmp_path), layout) is VmmChoice.QEMU
    monkeypatch.setattr(driver_choice, "why_no_kvm", lambda: "the machine has none")
    assert await choose_vmm(settings("auto", with_kvm), layout) is VmmChoice.QEMU
    with pytest.raises(InvalidState, match="Firecracker needs KVM: the machine has none"):
        await driver_choice.usable_firecracker(settings("firecracker", with_kvm))


@pytest.mark.parametrize("recorded", ["qemu", "firecracker", ""])
async def test_a_host_with_sandboxes_stays_with_their_monitor(
    layout: Layout, with_kvm: Path, recorded: str
) -> None:
    """Installing Firecracker must not end what runs. Earlier releases recorded nothing, and had QEMU alone."""
    (layout.sandboxes / "sb-1").mkdir()
    if recorded:
        (layout.data_dir / "vmm.json").write_text(f'{{"vmm": "{recorded}"}}')
    present = VmmChoice(recorded or "qemu")
    other = VmmChoice.QEMU if present is VmmChoice.FIRECRACKER else VmmChoice.FIRECRACKER
    assert await choose_vmm(settings("auto", with_kvm), layout) is present
    assert await choose_vmm(settings(present, with_kvm), layout) is present
    with pytest.raises(InvalidState, match=f"WRENN_VMM={present}"):
        await choose_vmm(settings(other, with_kvm), layout)


async def test_a_host_with_snapshots_alone_stays_with_their_monitor(layout: Layout, with_kvm: Path) -> None:
    (layout.snapshots / "snap-1").mkdir(parents=True)
    assert await choose_vmm(settings("auto", with_kvm), layout) is VmmChoice.QEMU


async def test_a_host_without_what_disks_need_takes_qemu_and_says_why(
    layout: Layout, with_kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_usable(_folder: Path, *, is_in_use: bool = False) -> str:
        del is_in_use
        return "there is no device-mapper"

    monkeypatch.setattr(driver_choice, "why_not_usable", not_usable)
    assert await choose_vmm(settings("auto", with_kvm), layout) is VmmChoice.QEMU
    with pytest.raises(InvalidState, match="Firecracker cannot be used: there is no device-mapper"):
        await driver_choice.usable_firecracker(settings("firecracker", with_kvm))


async def test_without_sandboxes_the_record_does_not_matter(layout: Layout, with_kvm: Path) -> None:
    (layout.data_dir / "vmm.json").write_text('{"vmm": "qemu"}')
    assert await choose_vmm(settings("firecracker", with_kvm), layout) is VmmChoice.FIRECRACKER


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"vmm": "xen"}', '{"vmm": "auto"}'])
async def test_a_damaged_record_is_refused(layout: Layout, with_kvm: Path, content: str) -> None:
    (layout.sandboxes / "sb-1").mkdir()
    (layout.data_dir / "vmm.json").write_text(content)
    with pytest.raises(InvalidState, match="damaged"):
        await choose_vmm(settings("auto", with_kvm), layout)


def test_a_memory_that_does_not_exist_is_refused() -> None:
    assert Settings.from_environment({}).firecracker_memory == "auto"
    assert Settings.from_environment({"WRENN_FIRECRACKER_MEMORY": "uffd"}).firecracker_memory == "uffd"
    with pytest.raises(InvalidRequest, match="WRENN_FIRECRACKER_MEMORY must be auto, file or uffd"):
        Settings.from_environment({"WRENN_FIRECRACKER_MEMORY": "swap"})


def test_a_host_without_page_fault_servers_says_why(tmp_path: Path) -> None:
    program, device = tmp_path / "pager", tmp_path / "userfaultfd"
    assert "make setup" in why_no_pager(None, device=device)
    assert str(device) in why_no_pager(program, device=device)
    device.touch()
    assert why_no_pager(program, device=device) == ""
