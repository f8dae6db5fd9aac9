"""The command line, and the control protocol against a VMM that may be hostile."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from wrenn.linux.process import ProcessRef
from wrenn.vm import MachineHandle, Shape, kvm
from wrenn.vm.qemu import Qcow2Disks, QemuBases, accelerator, command_line
from wrenn.vm.qemu.command_line import Descriptors
from wrenn.vm.qemu.machine import QemuMachine
from wrenn.vm.qemu.qmp import Qmp, QmpError

FDS = Descriptors(qmp_listener=3, tap=4, memory=5, disk_layers=(6, 7, 8), state=9)


def test_boot_and_restore_have_the_same_devices() -> None:
    def devices(argv: list[str]) -> list[str]:
        return [
            argv[i + 1]
            for i, word in enumerate(argv)
            if word in ("-device", "-machine", "-cpu", "-m", "-smp")
        ]

    restore = command_line.build(accelerator="tcg", shape=Shape(2, 512), fds=FDS)
    boot_fds = Descriptors(
        qmp_listener=3, tap=4, memory=5, disk_layers=(6, 7), kernel=10, initramfs=11, console=12
    )
    boot = command_line.build(accelerator="tcg", shape=Shape(2, 512), fds=boot_fds, kernel_args="quiet")
    assert devices(restore) == devices(boot)


def test_a_sandbox_can_neither_write_its_base_nor_fill_the_disk_with_its_console() -> None:
    argv = command_line.build(accelerator="tcg", shape=Shape(1, 256), fds=FDS)
    assert any("share=off" in word for word in argv)
    assert any(word.startswith("ringbuf,id=console") for word in argv)
    layers = [word for word in argv if "driver=file" in word]
    assert [("read-only=on" in layer) for layer in layers] == [True, True, False]


def test_no_path_of_the_host_is_on_the_command_line() -> None:
    argv = command_line.build(accelerator="tcg", shape=Shape(1, 256), fds=FDS)
    paths = [part for word in argv[1:] for part in word.replace("=", ",").split(",") if part.startswith("/")]
    paths.remove(str(command_line.FIRMWARE_DIR))  # in the VMM's own root
    assert all(path.startswith(("/proc/self/fd/", "/dev/fdset/")) for path in paths)


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_no_guest_may_run_guests_of_its_own(accelerator: str) -> None:
    argv = command_line.build(accelerator=accelerator, shape=Shape(1, 256), fds=FDS)
    assert {"-vmx", "-svm"} <= set(argv[argv.index("-cpu") + 1].split(","))
    named = command_line.cpu_argument(accelerator, "EPYC-v2")
    assert {"-vmx", "-svm"} <= set(named.split(","))


def test_confinement_is_on() -> None:
    argv = command_line.build(accelerator="kvm", shape=Shape(1, 256), fds=FDS)
    sandbox = argv[argv.index("-sandbox") + 1]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LATE = b'{"return": [{"late": true}], "id": "of-a-former-connection"}\n'
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'


def answer(writer: asyncio.StreamWriter, request: bytes, value: object, *, kind: str = "return") -> None:
    writer.write(json.dumps({kind: value, "id": json.loads(request)["id"]}).encode() + b"\n")


@asynccontextmanager
async def vmm(path: Path, serve: Serve) -> AsyncGenerator[None]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # What a command of a former connection returns, which has ended only now.
            writer.write(LATE + GREETING + LATE)
            answer(writer, await reader.readline(), {})
            await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, path)
    try:
        yield
    finally:
        server.close()


async def test_events_and_late_answers_between_command_and_response_are_skipped(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readline()
        writer.write(b'{"event": "STOP"}\n' + LATE)
        answer(writer, request, json.loads(request)["execute"])

    async with vmm(tmp_path / "q", serve):
        qmp = await Qmp.connect(tmp_path / "q")
        assert await qmp.execute("query-status") == "query-status"
        qmp.close()


async def test_a_refusal_names_the_command_and_keeps_the_detail_inside(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        detail = {"class": "GenericError", "desc": "/secret/path"}
        answer(writer, await reader.readline(), detail, kind="error")

    async with vmm(tmp_path / "q", serve):
        qmp = await Qmp.connect(tmp_path / "q")
        with pytest.raises(QmpError) as raised:
            await qmp.execute("stop")
        assert "stop" in raised.value.message
        assert "/secret" not in raised.value.message
        qmp.close()


async def test_a_vmm_that_does_not_answer_meets_the_deadline(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with vmm(tmp_path / "q", serve):
        qmp = await Qmp.connect(tmp_path / "q")
        with pytest.raises(QmpError):
            await qmp.execute("stop", timeout_s=0.1)


@pytest.mark.parametrize(
    "line", [b"x" * 3_000_000, b"no json\n", b""], ids=["endless line", "no json", "closed"]
)
async def test_nonsense_is_an_error(tmp_path: Path, line: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line)
        await writer.drain()

    async with vmm(tmp_path / "q", serve):
        qmp = await Qmp.connect(tmp_path / "q")
        with pytest.raises(QmpError):
            await qmp.execute("stop", timeout_s=5)
        qmp.close()


async def test_a_merge_under_way_is_ended_before_a_vm_is_frozen(tmp_path: Path) -> None:
    seen: list[str] = []
    jobs = [{"id": "merge", "status": "running"}]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            command = json.loads(line)["execute"]
            seen.append(command)
            value: object = {}
            if command == "query-jobs":
                value = list(jobs)
            elif command == "job-cancel":
                jobs[0]["status"] = "concluded"
            elif command == "job-dismiss":
                jobs.clear()
            answer(writer, line, value)

    async with vmm(tmp_path / "qmp.sock", serve):
        disks = Qcow2Disks(tmp_path, QemuBases(tmp_path))
        vm = QemuMachine(MachineHandle(ProcessRef(1, 1), tmp_path), disks)
        await vm.suspend()
        vm.disconnect()
    assert seen == ["query-jobs", "job-cancel", "query-jobs", "job-dismiss", "query-jobs", "stop"]


async def test_nobody_at_the_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(QmpError):
        await Qmp.connect(tmp_path / "none")


@pytest.mark.parametrize(
    ("mode", "gid", "group"), [(0o600, 0, None), (0o600, 4242, None), (0o660, 0, None), (0o660, 4242, 4242)]
)
def test_a_kvm_that_only_root_may_open_is_not_used(mode: int, gid: int, group: int | None) -> None:
    device = os.stat_result((stat.S_IFCHR | mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))
    assert kvm.group_with_access(device) == group


async def test_what_was_chosen_can_be_read_also_where_kvm_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "_KVM", tmp_path / "kvm")
    chosen = await accelerator.choose_accelerator(
        kernel=tmp_path, memory_of_choice=tmp_path / "choice", probe_timeout_s=1, cpu_model="host"
    )
    written = json.loads((tmp_path / "choice").read_text())
    assert chosen.accelerator == written["accelerator"] == "tcg"
    assert chosen.reason == written["reason"]
    assert chosen.reason.startswith(f"there is no {tmp_path}/kvm")


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        ("fpu vmx sse", "modprobe kvm_intel"),
        ("fpu svm", "modprobe kvm_amd"),
        ("fpu vmx_ept", "enable it"),
        ("", "enable it"),
    ],
)
def test_a_machine_without_kvm_gets_advice(flags: str, advice: str) -> None:
    cpuinfo = (
        f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: vmx svm\n"
        if flags
        else "processor: 0\n"
    )
    assert advice in kvm.why_no_device(cpuinfo)


async def test_a_kvm_that_boots_nothing_is_not_used_and_the_answer_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain file is no KVM: QEMU says so."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(kvm, "_KVM", device)
    monkeypatch.setattr(kvm, "group_with_access", group_of_the_test)
    choice = tmp_path / "choice"
    kernel = tmp_path / "no-kernel"
    first = await accelerator.choose_accelerator(
        kernel=kernel, memory_of_choice=choice, probe_timeout_s=30, cpu_model="host"
    )
    assert first.accelerator == "tcg"
    assert first.reason.startswith(("QEMU failed with KVM: ", "The host command"))
    monkeypatch.setattr(accelerator, "run", None)
    monkeypatch.setattr(
        accelerator, "qemu_version", partial(returned, json.loads(choice.read_text())["facts"]["qemu"])
    )
    again = await accelerator.choose_accelerator(
        kernel=kernel, memory_of_choice=choice, probe_timeout_s=30, cpu_model="host"
    )
    assert again == first


def group_of_the_test(_device: os.stat_result) -> int:
    return 4242


async def returned(value: str) -> str:
    return value


def test_a_named_cpu_model_must_be_complete_and_is_part_of_the_machine() -> None:
    argv = command_line.build(accelerator="kvm", shape=Shape(1, 256), fds=FDS, cpu_model="EPYC-v2")
    assert argv[argv.index("-cpu") + 1] == "EPYC-v2,enforce,-vmx,-svm"
    texts = {command_line.machine_text("kvm", model) for model in ("host", "EPYC-v2", "EPYC-v1")}
    assert len(texts) == 3
    assert command_line.machine_text("tcg", "host") == command_line.machine_text("tcg", "EPYC-v2")


def test_the_features_that_a_processor_lacks_are_named() -> None:
    stderr = """qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.07H:EBX.avx2 [bit 5]
qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.sse4.1 [bit 19]
qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.07H:EBX.avx2 [bit 5]
qemu-system-x86_64: Host doesn't support requested features
"""
    reason = accelerator.why_refused(stderr, "Skylake-Server-v4")
    assert (
        reason == "the processor lacks avx2, sse4.1, which the model Skylake-Server-v4 has (WRENN_CPU_MODEL)"
    )
    assert (
        accelerator.why_refused("a\nqemu: no such model\n", "x")
        == "QEMU failed with KVM: qemu: no such model"
    )
    assert accelerator.why_refused("", "x") == "QEMU failed with KVM: it gave no reason"
