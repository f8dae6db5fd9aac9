"""Known VM escapes, and whether this machine's kernel and QEMU have the fixes.

The table is dated: it knows nothing of what was published after `AS_OF`. It compares version numbers, so it cannot see a fix
that a distribution has carried back without a new number; such kernels are reported as unknown, not as bad.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.agent.doctor.check_result import Check, Severity
from wrenn.linux import apt
from wrenn.linux.command import CommandError

AS_OF: Final = "2026-11"

Line = tuple[int, int]
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class KernelFix:
    """The kernel releases that contain the fix of one vulnerability.

    Attributes:
        fixed: by stable line, the first patch level with the fix. Lines after the newest have it.
        complete: whether every line without an entry, before the newest, lacks the fix; otherwise nothing is known of it.
        only_nested: the fault is in nested virtualisation, so a host without it is not affected.
    """

    cve: str
    what: str
    fixed: Mapping[Line, int]
    complete: bool
    only_nested: bool


# Sources: the kernel's CVE announcements (lore.kernel.org/linux-cve-announce) as summed up in this project's issue tracker.
# That 6.18.42 mends 64561 is said by one source only.
FIXES: Final = (
    KernelFix(
        "CVE-2026-53359", "escape from a guest through nested virtualisation",
        {(7, 1): 3, (6, 18): 38, (6, 12): 95, (6, 6): 144, (6, 1): 177}, complete=True, only_nested=True,
    ),
    KernelFix(
        "CVE-2026-64561", "escape from a guest through nested virtualisation",
        {(7, 1): 6, (6, 18): 42}, complete=True, only_nested=True,
    ),
    KernelFix(
        "CVE-2026-80590", "reassembly of IP fragments",
        {(6, 18): 48}, complete=False, only_nested=False,
    ),
)  # fmt: skip
_NESTED: Final = ("kvm_intel", "kvm_amd")
_QEMU_PACKAGE: Final = "qemu-system-x86"


async def check_advisories() -> list[Check]:
    """Return one check for each known kernel vulnerability, and one for the installed QEMU."""
    release, build = os.uname().release, os.uname().version
    signature = Path("/proc/version_signature")
    version = kernel_version(release, build, signature.read_text() if signature.exists() else "")
    nested = is_nested(Path("/sys/module"))
    return [*(check_kernel(fix, version, nested=nested) for fix in FIXES), await _check_qemu_updates()]


def kernel_version(release: str, build: str, signature: str) -> Version | None:
    """Return the upstream version that a kernel is built from; None if it cannot be determined.

    Debian says it in the build (`uname -v`), Ubuntu in `/proc/version_signature`; both have numbers of their own in the release.
    Red Hat's kernels keep one number and carry fixes back.
    """
    if re.search(r"\.(el|amzn|fc)\d", release):
        return None
    ubuntu = re.search(r" (\d+)\.(\d+)\.(\d+)\s*$", signature)
    debian = re.search(r"Debian (\d+)\.(\d+)\.(\d+)", build)
    plain = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    found = ubuntu or debian or plain
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def is_nested(modules: Path) -> bool:
    """Return whether KVM on this host offers nested virtualisation to guests."""
    settings = [modules / module / "parameters" / "nested" for module in _NESTED]
    return any(setting.read_text().strip() in ("Y", "1") for setting in settings if setting.exists())


def check_kernel(fix: KernelFix, version: Version | None, *, nested: bool) -> Check:
    """Return whether the kernel has a fix: an error if nested virtualisation is affected, otherwise a warning."""
    severity = Severity.ERROR if fix.only_nested else Severity.WARNING
    if fix.only_nested and not nested:
        return Check(fix.cve, ok=True, detail="nested virtualisation is off", severity=severity)
    text = ".".join(map(str, version)) if version else "of this distribution"
    hint = f"Update the kernel ({fix.what}; table of {AS_OF})" + (
        ", or turn nested virtualisation off: options kvm_intel nested=0, options kvm_amd nested=0."
        if fix.only_nested
        else "."
    )
    known = None if version is None else _has(fix, version)
    if known is None:
        return Check(
            fix.cve, ok=False, detail=f"cannot be told for kernel {text}", severity=Severity.WARNING,
            hint=f"Look it up in the distribution's security notices ({fix.what}).",
        )  # fmt: skip
    return Check(
        fix.cve,
        ok=known,
        detail=f"kernel {text} {'has' if known else 'lacks'} the fix",
        hint=hint,
        severity=severity,
    )


def _has(fix: KernelFix, version: Version) -> bool | None:
    line = version[:2]
    if line in fix.fixed:
        return version[2] >= fix.fixed[line]
    if fix.complete:
        return line > max(fix.fixed)
    return None


async def _check_qemu_updates() -> Check:
    name = "QEMU updates"
    try:
        installed, candidate = await apt.versions(_QEMU_PACKAGE)
    except CommandError:
        return Check(name, ok=True, detail="not known: QEMU is not from apt", severity=Severity.WARNING)
    current = installed == candidate
    return Check(
        name,
        ok=current,
        detail=f"{installed} is the newest that apt knows"
        if current
        else f"{installed}; apt has {candidate}",
        hint=f"Run: apt-get install --only-upgrade {_QEMU_PACKAGE}; then restart the agent, and sandboxes when you can.",
        severity=Severity.WARNING,
    )
