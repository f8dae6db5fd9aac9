"""Chooses the accelerator by booting a guest kernel with KVM once; the result and its reason are cached.

A machine can have `/dev/kvm` and yet boot no Linux guest with it (nested virtualisation without hardware support):
the file proves nothing, a booted kernel does.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import StorageFull
from wrenn.linux.boot import boot_id
from wrenn.linux.command import CommandError, run
from wrenn.linux.files import write_json
from wrenn.vm.kvm import kvm_group, why_no_kvm
from wrenn.vm.qemu.command_line import BINARY, cpu_argument

_PROBE_ARGUMENTS: Final = (
    "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
    "-machine", "q35", "-accel", "kvm", "-m", "128",
)  # fmt: skip
_PROBE_KERNEL_ARGUMENTS: Final = "console=ttyS0 quiet panic=-1"
"""Each character on the console leaves the VM, which is slow where KVM itself runs in a virtual machine; a panic is shown in any case."""
_PROOF: Final = b"Kernel panic - not syncing"
_MISSING_FEATURE: Final = re.compile(r"doesn't support requested feature: \S+?\.([\w.-]+) \[bit")
_REASON_LIMIT: Final = 300


@dataclass(frozen=True, slots=True)
class AcceleratorChoice:
    """An accelerator, and the reason why KVM cannot be used; empty for `kvm`."""

    accelerator: str
    reason: str = ""


async def qemu_version() -> str:
    """Version of the installed QEMU, e.g. `7.2.22`.

    Raises:
        CommandError: it is not installed.
    """
    text = (await run([BINARY, "--version"], timeout_s=10)).decode()
    match = re.search(r"version (\d+(?:\.\d+)+)", text)
    if match is None:
        raise CommandError("QEMU does not tell its version.", context={"output": text[:200]})
    return match[1]


async def choose_accelerator(
    *, kernel: Path, memory_of_choice: Path, probe_timeout_s: float, cpu_model: str
) -> AcceleratorChoice:
    """Return `kvm` if a guest kernel boots with it on this CPU model within `probe_timeout_s`, otherwise `tcg` and the reason.

    The answer is kept in the file `memory_of_choice` for this boot of the machine, this QEMU, model and time limit.
    """
    if reason := why_no_kvm():
        choice = AcceleratorChoice("tcg", reason)
        _remember(memory_of_choice, None, choice)
        return choice
    facts = {
        "boot_id": boot_id(),
        "qemu": await qemu_version(),
        "group": kvm_group(),
        "probe_timeout_s": probe_timeout_s,
        "cpu": cpu_argument("kvm", cpu_model),
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        remembered = json.loads(memory_of_choice.read_text())
        if remembered["facts"] == facts:
            return AcceleratorChoice(str(remembered["accelerator"]), str(remembered["reason"]))
    reason = await _why_not_booting(kernel, probe_timeout_s, cpu_model)
    choice = AcceleratorChoice("tcg" if reason else "kvm", reason)
    _remember(memory_of_choice, facts, choice)
    return choice


def _remember(path: Path, facts: object, choice: AcceleratorChoice) -> None:
    content = {"facts": facts, "accelerator": choice.accelerator, "reason": choice.reason}
    with contextlib.suppress(OSError, StorageFull):  # asked again next time
        write_json(path, content, durable=False)


async def _why_not_booting(kernel: Path, timeout_s: float, cpu_model: str) -> str:
    """Boot the kernel with KVM; return why it did not boot, or an empty text."""
    argv = [
        BINARY, *_PROBE_ARGUMENTS, "-cpu", cpu_argument("kvm", cpu_model),
        "-kernel", str(kernel), "-append", _PROBE_KERNEL_ARGUMENTS,
    ]  # fmt: skip
    started = time.monotonic()
    try:
        console = await run(argv, timeout_s=timeout_s)
    except CommandError as error:
        if "exit_code" not in error.context:
            if time.monotonic() - started < timeout_s:
                return error.message
            return f"a guest kernel did not boot with KVM within {timeout_s:g} s (WRENN_KVM_PROBE_S)"
        return why_refused(str(error.context.get("stderr", "")), cpu_model)
    if _PROOF in console:
        return ""
    return "a guest kernel ended without its usual message when it was booted with KVM"


def why_refused(stderr: str, cpu_model: str) -> str:
    """Return why QEMU did not start with KVM, from what it wrote: features of the model that the processor lacks, or its last line."""
    missing = dict.fromkeys(_MISSING_FEATURE.findall(stderr))
    if missing:
        return f"the processor lacks {', '.join(missing)}, which the model {cpu_model} has (WRENN_CPU_MODEL)"[
            :_REASON_LIMIT
        ]
    said = stderr.strip().rpartition("\n")[2]
    return f"QEMU failed with KVM: {said[:_REASON_LIMIT] or 'it gave no reason'}"
