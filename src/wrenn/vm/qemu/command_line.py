"""Builds QEMU's command line from values, without side effects.

All that the VMM opens it gets as a descriptor: it runs as a user that owns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.vm.driver import Shape

BINARY: Final = "/usr/bin/qemu-system-x86_64"
FIRMWARE_DIR: Final = Path("/usr/share/qemu")
"""Where the firmware lies in the VMM's own root, wherever the distribution keeps it."""
GUEST_MAC: Final = "02:FC:00:00:00:05"
CONSOLE_LIMIT_B: Final = 64 * 1024

# Only what a guest of ours uses; each device less is state less to save and code less to attack. Any change of this
# page changes `machine_text` and so makes new bases.
_MACHINE: Final = "q35,usb=off,smbus=off,sata=off,vmport=off,suppress-vmdesc=on,memory-backend=ram"
# What emulation is slow at is switched off: string instructions that TCG runs byte by byte, and wide vectors. With
# them, copying in the guest takes 2.5 times as long (docs/design/vm-qemu.md).
#
# No guest may run guests of its own: nested virtualisation is where most of KVM's escapes have been found.
_NOT_NESTED: Final = ",-vmx,-svm"
_EMULATED_CPU: Final = f"max,-erms,-fsrm,-avx,-avx2,-xsave{_NOT_NESTED}"
HOST_CPU: Final = "host"
"""The processor of the machine itself: the fastest, but what is saved is restored only on machines with the same processor."""
_ACCELERATOR: Final = {"kvm": "kvm", "tcg": "tcg,thread=multi,tb-size=128"}
"""Translated code may take 128 MiB, which the cgroup's overhead has room for; QEMU's own limit is a gigabyte."""
_DEVICES: Final = (
    "virtio-net-pci,netdev=net,mac={mac},romfile=,addr=0x2",
    # A full host disk stops the VM instead of failing the guest's write; it continues when there is space again.
    "virtio-blk-pci,id=root,drive={overlay},addr=0x3,werror=enospc,rerror=report",
)
BASE_NODE: Final = "below1"
_CONSOLE_SET: Final = 90
"""Number of the console's descriptor set; disks use the low numbers."""
_WRITABLE: Final = "discard=unmap,cache.no-flush=on"
"""A flush would wait for the host's disk, for data that is worth nothing without the VM's memory, which no power cut leaves."""
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The descriptors that QEMU inherits, by purpose.

    Attributes:
        disk_layers: overlay (read-write) first, then the frozen layers, the raw image last (all read-only).
        overlay: name of the overlay's block node.
        state: device state to load, or None for a cold boot.
        kernel, initramfs: for a cold boot only.
        console: for the boot of a base only. Its console goes to a file, to be read when the boot fails;
            a sandbox's goes to a ring in memory, or a hostile guest could fill the host's disk with it.
        writes_memory: the guest's RAM is the file `memory` itself, which becomes that of a base; else a private copy of it.
    """

    qmp_listener: int
    tap: int
    memory: int
    disk_layers: tuple[int, ...]
    overlay: str = "disk"
    state: int | None = None
    kernel: int | None = None
    initramfs: int | None = None
    console: int | None = None
    writes_memory: bool = False


def cpu_argument(accelerator: str, model: str) -> str:
    """Return the argument of `-cpu`; under KVM the processor has to have every feature of a named `model`."""
    if accelerator != "kvm":
        return _EMULATED_CPU
    return f"{model}{_NOT_NESTED}" if model == HOST_CPU else f"{model},enforce{_NOT_NESTED}"


def machine_text(accelerator: str, cpu_model: str) -> str:
    """Return the machine type, CPU model and devices that a snapshot can only be restored with."""
    return "|".join((_MACHINE, cpu_argument(accelerator, cpu_model), *_DEVICES, "isa-serial"))


def build(
    *, accelerator: str, shape: Shape, fds: Descriptors, cpu_model: str = HOST_CPU, kernel_args: str = ""
) -> list[str]:
    """Return the whole command line. `cpu_model` matters only under KVM."""
    argv = [
        BINARY, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-name", "wrenn", "-L", str(FIRMWARE_DIR),
        "-machine", _MACHINE,
        "-global", "migration.send-configuration=off",
        "-accel", _ACCELERATOR[accelerator],
        "-cpu", cpu_argument(accelerator, cpu_model),
        "-smp", str(shape.vcpus),
        "-m", str(shape.memory_mb),
        "-object",
        f"memory-backend-file,id=ram,size={shape.memory_mb}M,mem-path=/proc/self/fd/{fds.memory},"
        f"share={'on' if fds.writes_memory else 'off'}",
        "-chardev", f"socket,id=qmp,fd={fds.qmp_listener},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        *_console(fds.console),
        "-serial", "chardev:console",
        "-netdev", f"tap,id=net,fd={fds.tap}",
        *_block_devices(fds.disk_layers, fds.overlay),
        "-sandbox", _SANDBOX,
    ]  # fmt: skip
    for device in _DEVICES:
        argv += ["-device", device.format(mac=GUEST_MAC, overlay=fds.overlay)]
    if fds.kernel is not None:
        argv += ["-kernel", f"/proc/self/fd/{fds.kernel}", "-initrd", f"/proc/self/fd/{fds.initramfs}"]
        argv += ["-append", kernel_args]
    if fds.state is not None:
        argv += ["-incoming", f"fd:{fds.state}"]
    return argv


FLATTENED: Final = "disk"
IMAGE: Final = "image"
"""Block nodes of a QEMU that flattens a disk: what it reads, and what it writes."""


def build_flattening(*, qmp: int, layers: tuple[int, ...], image: int) -> list[str]:
    """Return the command line of a QEMU without a machine that has the layers, all read-only, and the raw image. `qmp` is a connected socket."""
    number = len(layers)
    return [
        BINARY, "-nodefaults", "-no-user-config", "-display", "none", "-S",
        "-name", "wrenn", "-machine", "none", "-accel", _ACCELERATOR["tcg"],
        "-chardev", f"socket,id=qmp,fd={qmp}",
        "-mon", "chardev=qmp,mode=control",
        *_block_devices(layers, FLATTENED, writable=False),
        "-add-fd", f"fd={image},set={number}",
        "-blockdev",
        f"driver=file,node-name=file{number},filename=/dev/fdset/{number},locking=off,{_WRITABLE}",
        # Blocks of zeros, which the guest's trim leaves, become holes.
        "-blockdev", f"driver=raw,node-name={IMAGE},file=file{number},detect-zeroes=unmap,{_WRITABLE}",
        "-sandbox", _SANDBOX,
    ]  # fmt: skip


def overlay_nodes(fdset: int, name: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return the `blockdev-add` arguments for an overlay on top of the present one: its file, and the overlay itself."""
    writable: dict[str, object] = {"discard": "unmap", "cache": {"no-flush": True}}
    file = f"file-{name}"
    protocol = {"driver": "file", "node-name": file, "filename": f"/dev/fdset/{fdset}", "locking": "off"}
    return protocol | writable, {
        "driver": "qcow2",
        "node-name": name,
        "file": file,
        "backing": None,
        **writable,
    }


def _console(fd: int | None) -> list[str]:
    if fd is None:
        return ["-chardev", f"ringbuf,id=console,size={CONSOLE_LIMIT_B}"]
    return [
        "-add-fd",
        f"fd={fd},set={_CONSOLE_SET}",
        "-chardev",
        f"file,id=console,path=/dev/fdset/{_CONSOLE_SET}",
    ]


def _block_devices(layers: tuple[int, ...], overlay_name: str, *, writable: bool = True) -> list[str]:
    """Return block nodes from the raw image (last layer), `below0`, to the overlay. A restored VM's base is `below1`."""
    argv: list[str] = []
    for number, fd in enumerate(layers):
        argv += ["-add-fd", f"fd={fd},set={number}"]
    below = ""
    for number in reversed(range(len(layers))):
        overlay, image = number == 0, number == len(layers) - 1
        access = _WRITABLE if overlay and writable else "read-only=on"
        name = overlay_name if overlay else f"below{len(layers) - 1 - number}"
        argv += [
            "-blockdev",
            f"driver=file,node-name=file{number},filename=/dev/fdset/{number},locking=off,{access}",
        ]
        form = "raw" if image else "qcow2"
        backing = f",backing={below}" if below else ""
        argv += ["-blockdev", f"driver={form},node-name={name},file=file{number},{access}{backing}"]
        below = name
    return argv
