"""Named network namespaces, mounted below `/run/netns` as by `ip netns`.

Only the namespace of a thread is changed, never that of the event loop: work inside a namespace runs in a new
thread, which then ends. The thread does not return to a pool, so that no later work runs in the wrong
namespace.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from wrenn.base.errors import WrennError
from wrenn.linux import syscalls
from wrenn.linux.threads import start_in_own_thread

T = TypeVar("T")

NETNS_DIR: Final = Path("/run/netns")


class KernelError(WrennError):
    """The kernel refused a network call. `context` has the call and the kernel's reason."""

    code = "internal_error"


def namespace_path(name: str) -> Path:
    """Return the path at which the namespace `name` is mounted."""
    return NETNS_DIR / name


def list_namespaces() -> list[str]:
    """Return the names of all network namespaces of the machine, sorted."""
    try:
        return sorted(os.listdir(NETNS_DIR))  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []


def start_in_namespace(name: str | None, work: Callable[[], T]) -> Future[T]:
    """Run `work` in a new thread inside namespace `name` (None: the caller's).

    For kernel calls that take milliseconds; they cannot be interrupted.
    """

    def enter_and_work() -> T:
        if name is not None:
            _enter(name)
        return work()

    return start_in_own_thread(enter_and_work)


async def in_namespace(name: str | None, work: Callable[[], T]) -> T:
    """As `start_in_namespace`, but wait for the result.

    A cancellation takes effect after `work` ended, so that the caller's undo does not race with it.

    Raises:
        KernelError: no such namespace.
    """
    outcome = asyncio.wrap_future(start_in_namespace(name, work))
    cancelled = False
    while not outcome.done():
        try:
            await asyncio.wait([outcome])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        outcome.exception()  # retrieved, or asyncio would log it as never retrieved
        raise asyncio.CancelledError
    return outcome.result()


async def create_namespace(name: str) -> None:
    """Create the namespace `name`, which contains only a loopback device that is down.

    Raises:
        KernelError: the name is taken, or this process lacks the permission.
    """
    await in_namespace(None, partial(_create, name))


async def remove_namespace(name: str) -> None:
    """Remove the name; the kernel frees the namespace once no process or descriptor refers to it.

    A missing namespace is ignored.
    """
    await in_namespace(None, partial(_remove, name))


def set_sysctls(values: Mapping[str, str]) -> dict[str, str]:
    """Write settings below `/proc/sys/net` in the calling thread's namespace. Keys contain `/`, not dots.

    A setting that this kernel lacks (for example without IPv6) is skipped. Returns the previous values of
    changed settings.

    Raises:
        KernelError: a setting exists and cannot be written.
    """
    before: dict[str, str] = {}
    for key, value in values.items():
        setting = Path("/proc/sys/net", key)
        try:
            old = setting.read_text().strip()
            if old != value:
                setting.write_text(value)
                before[key] = old
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KernelError(
                "A kernel network setting could not be changed.", context={"sysctl": key, "value": value}
            ) from error
    return before


def read_number(key: str) -> int:
    """Return a numeric setting below `/proc/sys/net`; 0 if this kernel lacks it."""
    try:
        return int(Path("/proc/sys/net", key).read_text())
    except FileNotFoundError:
        return 0


def _enter(name: str) -> None:
    try:
        descriptor = os.open(namespace_path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KernelError("A network namespace could not be entered.", context={"namespace": name}) from error


def _create(name: str) -> None:
    target = namespace_path(name)
    try:
        _share_netns_dir()
        os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            syscalls.mount(b"/proc/thread-self/ns/net", target, syscalls.MS_BIND)
        except OSError:
            target.unlink()
            raise
    except OSError as error:
        raise KernelError("A network namespace could not be made.", context={"namespace": name}) from error


def _remove(name: str) -> None:
    target = namespace_path(name)
    try:
        syscalls.unmount(target)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # EINVAL: the file exists, with nothing mounted
            raise KernelError(
                "A network namespace could not be removed.", context={"namespace": name}
            ) from error
    target.unlink(missing_ok=True)


def _share_netns_dir() -> None:
    """Make `/run/netns` a shared mount; otherwise mount namespaces of other processes would keep removed namespaces alive."""
    NETNS_DIR.mkdir(parents=True, exist_ok=True)
    try:
        syscalls.mount(b"none", NETNS_DIR, syscalls.MS_SHARED | syscalls.MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: it is not a mount point yet
            raise
        syscalls.mount(bytes(NETNS_DIR), NETNS_DIR, syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.mount(b"none", NETNS_DIR, syscalls.MS_SHARED | syscalls.MS_REC)
