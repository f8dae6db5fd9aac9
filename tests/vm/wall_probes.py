"""What code that has taken over a VMM may try, run as that VMM's user inside its very confinement. A program of its own.

`python wall_probes.py CONTEXT` with a JSON object (see `Target`) prints one JSON object a line. Each probe runs twice, each time
in a process of its own: outside, as root on the host, where it must succeed or it proves nothing, and inside. Inside means:
in all namespaces of the VMM, in its cgroups, as its user and groups, without capabilities, with its resource limits, and under
the seccomp filters that are read out of the running VMM. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
NAMESPACES = ("ipc", "uts", "net", "mnt")
METADATA = ("169.254.169.254", "100.100.100.200", "fd00:ec2::254")


@dataclass
class Target:
    """What there is to reach.

    Attributes:
        vmm: pid of the VMM whose confinement is tried.
        other: pid of another sandbox's VMM.
        other_dir: folder of the other sandbox: control socket, log, journal.
        other_files: its disk, the base's memory and state.
        other_address: where the host reaches its guest agent.
        data_dir: the agent's data folder.
        agent_port: the agent's port on loopback.
    """

    vmm: int
    other: int
    other_dir: str
    other_files: list[str]
    other_address: str
    data_dir: str
    agent_port: int


@dataclass
class Stage:
    """Things of this program that probes aim at, made before any of them runs."""

    victim: int
    tcp_port: int
    udp_port: int
    unix_path: str
    abstract: str
    listeners: list[socket.socket] = field(default_factory=list[socket.socket])


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: Any) -> int:
    return check(libc.syscall(ctypes.c_long(number), *arguments))


def c(value: int) -> ctypes.c_ulong:
    return ctypes.c_ulong(value & 0xFFFFFFFFFFFFFFFF)


# --- probes ---------------------------------------------------------------------------------------------------------------


def read(path: str) -> Callable[[], object]:
    def probe() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.read(fd, 1)

    return probe


def openable(path: str, flags: int = os.O_RDONLY) -> Callable[[], object]:
    return lambda: os.close(os.open(path, flags | os.O_NONBLOCK))


def listed(path: str) -> Callable[[], object]:
    def probe() -> None:
        if not os.listdir(path):  # noqa: PTH208
            raise FileNotFoundError(errno.ENOENT, "empty")

    return probe


def written(folder: str) -> Callable[[], object]:
    def probe() -> None:
        path = f"{folder}/.wrenn-probe-{os.getpid()}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        Path(path).unlink()

    return probe


def connects(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> Callable[[], object]:
    def probe() -> None:
        with socket.socket(family, kind) as client:
            client.settimeout(2)
            client.connect(address)
            client.send(b"x")

    return probe


def makes_socket(family: int, kind: int, protocol: int = 0) -> Callable[[], object]:
    return lambda: socket.socket(family, kind, protocol).close()


def sees_links() -> None:
    if [name for _, name in socket.if_nameindex() if name != "lo"] == []:
        raise OSError(errno.ENODEV, "only lo")


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def execute(path: str) -> Callable[[], object]:
    def probe() -> None:
        os.set_inheritable(0, True)
        os.execv(path, [path, "-c", "exit 0"])

    return probe


def attach(pid: int) -> Callable[[], object]:
    def probe() -> None:
        check(libc.ptrace(16, pid, None, None))
        os.waitpid(pid, 0)
        check(libc.ptrace(17, pid, None, None))

    return probe


def reads_memory(pid: int) -> Callable[[], object]:
    """Through process_vm_readv: a byte of its program. An address that is not mapped means that access was granted."""

    def probe() -> None:
        buffer = ctypes.create_string_buffer(8)
        local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
        remote = (ctypes.c_uint64 * 2)(0x1000, 8)
        try:
            syscall(310, c(pid), local, c(1), remote, c(1), c(0))
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise

    return probe


def enters(path: str, kind: int) -> Callable[[], object]:
    def probe() -> None:
        fd = os.open(path, os.O_RDONLY)
        if kind == 0x20000:
            check(libc.unshare(0x200))
        check(libc.setns(fd, kind))

    return probe


def unshares(flags: int) -> Callable[[], object]:
    return lambda: check(libc.unshare(flags))


def clones(flags: int) -> Callable[[], object]:
    def probe() -> None:
        pid = syscall(56, c(flags | signal.SIGCHLD), c(0), c(0), c(0), c(0))
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return probe


def clones_by_structure() -> None:
    arguments = struct.pack("=8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = syscall(435, ctypes.create_string_buffer(arguments), c(len(arguments)))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def mounts() -> None:
    check(libc.unshare(0x20000))
    check(libc.mount(b"none", b"/", None, c(0x44000), None))
    check(libc.mount(b"none", b"/usr", b"tmpfs", c(0), None))


def names_host() -> None:
    """Whether this learns the name of the host: that of the VMM's own namespace is no secret."""
    if os.uname().nodename == "vmm":
        raise OSError(errno.EACCES, "a name of its own")


def user_namespace_root() -> None:
    check(libc.unshare(0x10000000))
    check(libc.unshare(0x20000))


def perf() -> None:
    attributes = ctypes.create_string_buffer(128)
    struct.pack_into("=IIQ", attributes, 0, 1, 128, 0)  # software clock
    os.close(syscall(298, attributes, c(0), c(-1), c(-1), c(0)))


def loads_bpf() -> None:
    attributes = ctypes.create_string_buffer(128)
    struct.pack_into("=IIIII", attributes, 0, 2, 4, 4, 1, 0)  # an array map
    os.close(syscall(321, c(0), attributes, c(128)))


def opens_by_handle() -> None:
    """Name a folder by handle, and open it by that handle from a mount: how containers were left in the past."""
    handle = ctypes.create_string_buffer(8 + 128)
    struct.pack_into("=I", handle, 0, 128)
    mount_id = ctypes.c_int()
    name = b"/usr"
    syscall(303, c(-100), name, handle, ctypes.byref(mount_id), c(0))
    folder = os.open("/usr", os.O_RDONLY)
    os.close(syscall(304, c(folder), handle, c(0)))


def adds_key() -> None:
    syscall(248, b"user", b"wrenn-probe", b"x", c(1), c(-2))  # the process's keyring


def uring() -> None:
    parameters = ctypes.create_string_buffer(120)
    os.close(syscall(425, c(2), parameters))


def userfault() -> None:
    os.close(syscall(323, c(1)))  # of its own user mode only: what the kernel gives to anybody


def kernel_log() -> None:
    buffer = ctypes.create_string_buffer(64)
    syscall(103, c(3), buffer, c(64))


def chroots() -> None:
    os.chroot("/usr")


def raises_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))


def module() -> None:
    """An empty module image gets as far as being looked at only where modules may be loaded."""
    try:
        syscall(175, b"", c(0), b"")
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise


def becomes(uid: int) -> Callable[[], object]:
    return lambda: os.setresuid(uid, uid, uid)


def regains_capability() -> None:
    check(libc.prctl(24, c(39), c(0), c(0), c(0)))  # PR_CAPBSET_DROP needs CAP_SETPCAP


def watches_all() -> None:
    os.close(syscall(300, c(0), c(0)))


def new_mount_api() -> None:
    os.close(syscall(430, b"tmpfs", c(0)))


def clones_tree() -> None:
    os.close(syscall(428, c(-100), b"/usr", c(1)))


def sets_clock() -> None:
    # Sets nothing: CLOCK_REALTIME to a time that is refused as out of range once the caller may set it.
    value = struct.pack("=qq", 0, 2_000_000_000)
    try:
        syscall(227, c(0), value)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def tap() -> None:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"wrprobe%d", 0x1002))


def makes_device() -> None:
    path = f"/dev/shm/.wrenn-probe-{os.getpid()}"
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    try:
        os.close(os.open(path, os.O_RDONLY))
    finally:
        Path(path).unlink()


def is_reached() -> None:
    """Listen where the host's own processes would find it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.socket() as client:
            client.settimeout(1)
            client.connect(listener.getsockname())


def sets_link_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("=H", fcntl.ioctl(sock, 0x8913, request), 16)[0]
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", flags))


def sees_processes() -> None:
    if sum(name.isdigit() for name in os.listdir("/proc")) < 2:  # noqa: PTH208
        raise FileNotFoundError(errno.ENOENT, "none but itself")


def all_probes(target: Target, stage: Stage) -> list[tuple[str, str, Callable[[], object]]]:
    inet, inet6, unix = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
    data, victim, other = target.data_dir, stage.victim, target.other
    probes: dict[str, dict[str, Callable[[], object]]] = {
        "host files": {
            **{
                f"read {path}": read(path)
                for path in (
                    "/etc/passwd",
                    "/etc/shadow",
                    "/etc/hosts",
                    "/etc/resolv.conf",
                    "/etc/group",
                    "/etc/os-release",
                    "/bin/sh",
                    "/usr/bin/env",
                    "/proc/self/exe",
                    "/proc/1/root/etc/passwd",
                    "/proc/self/root/etc/passwd",
                    "/proc/self/cwd/etc/passwd",
                    "/proc/self/fd/../../../etc/passwd",
                    f"{data}/secret",
                )
            },
            **{
                f"list {path}": listed(path)
                for path in (
                    "/etc",
                    "/root",
                    "/var",
                    "/usr/bin/../../etc",
                    data,
                    f"{data}/pki",
                    f"{data}/bases",
                )
            },
            **{
                f"write to {path}": written(path) for path in ("/tmp", "/var/tmp", "/usr", "/", "/root", data)
            },
        },
        "other sandboxes": {
            "list the sandboxes": listed(f"{data}/sandboxes"),
            "list the layers": listed(f"{data}/layers"),
            **{f"read {Path(path).name}": read(path) for path in target.other_files},
            **{f"write {Path(path).name}": openable(path, os.O_WRONLY) for path in target.other_files},
            "control socket": connects(unix, f"{target.other_dir}/qmp.sock"),
            "log": read(f"{target.other_dir}/vmm.log"),
            "journal": read(f"{target.other_dir}/journal.json"),
            "guest agent": connects(inet, (target.other_address, 49983)),
            "memory by /proc": openable(f"/proc/{other}/mem", os.O_RDWR),
            "memory map": read(f"/proc/{other}/maps"),
            "memory by system call": reads_memory(other),
            "descriptors": listed(f"/proc/{other}/fd"),
            "trace its VMM": attach(other),
            "signal its VMM": lambda: os.kill(other, 0),
            "its network": enters(f"/proc/{other}/ns/net", 0x40000000),
            "its files": enters(f"/proc/{other}/ns/mnt", 0x20000),
        },
        "processes": {
            "see them": sees_processes,
            "signal one": lambda: os.kill(victim, 0),
            "signal init": lambda: signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0),
            "trace one": attach(victim),
            "read memory": reads_memory(victim),
            "open memory": openable(f"/proc/{victim}/mem"),
            "read environment": read(f"/proc/{victim}/environ"),
            "read command line": read("/proc/1/cmdline"),
            "pidfd": lambda: os.close(os.pidfd_open(victim)),
            "take a descriptor": lambda: os.close(syscall(438, c(os.pidfd_open(victim)), c(0), c(0))),
            "priority": lambda: os.getpriority(os.PRIO_PROCESS, victim),
            "set priority": lambda: os.setpriority(os.PRIO_PROCESS, victim, 0),
            "affinity": lambda: os.sched_getaffinity(victim),
            "scheduler": lambda: os.sched_getscheduler(victim),
            "process group": lambda: os.getpgid(victim),
            "session": lambda: os.getsid(victim),
            "limits": lambda: resource.prlimit(victim, resource.RLIMIT_CORE),
            "start one": fork,
            "run a shell": execute("/bin/sh"),
            "run QEMU": execute("/usr/bin/qemu-system-x86_64"),
        },
        "network": {
            "loopback TCP": connects(inet, ("127.0.0.1", stage.tcp_port)),
            "loopback UDP": connects(inet, ("127.0.0.1", stage.udp_port), socket.SOCK_DGRAM),
            "all addresses TCP": connects(inet, ("0.0.0.0", stage.tcp_port)),
            "IPv6 loopback": connects(inet6, ("::1", stage.tcp_port)),
            "agent": connects(inet, ("127.0.0.1", target.agent_port)),
            "name server": connects(inet, ("8.8.8.8", 53), socket.SOCK_DGRAM),
            "unix socket": connects(unix, stage.unix_path),
            "abstract unix socket": connects(unix, "\0" + stage.abstract),
            "links": sees_links,
            "bring a link up": sets_link_up,
            "listen": is_reached,
            "raw socket": makes_socket(inet, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            "packet socket": makes_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
            "netfilter": nf_tables,
            "new network": unshares(0x40000000),
            "network of the host": enters("/proc/1/ns/net", 0x40000000),
            "new tap": tap,
        },
        "devices": {
            **{
                f"open {path}": openable(path)
                for path in (
                    "/dev/null",
                    "/dev/zero",
                    "/dev/full",
                    "/dev/random",
                    "/dev/urandom",
                    "/dev/ptmx",
                    "/dev/net/tun",
                    "/dev/loop-control",
                    "/dev/fuse",
                    "/dev/kmsg",
                    "/dev/mem",
                    "/dev/vda",
                    "/dev/loop0",
                    "/dev/vhost-net",
                    "/dev/vsock",
                    "/dev/userfaultfd",
                    "/dev/mapper/control",
                    "/dev/rtc0",
                )
            },
            "open /dev/kvm": openable("/dev/kvm", os.O_RDWR),
            "list /dev": listed("/dev"),
            "write to /dev/shm": written("/dev/shm"),
            "make a device": makes_device,
            "list block devices": listed("/sys/block"),
            "list PCI": listed("/sys/bus/pci/devices"),
        },
        "metadata": {
            **{
                f"{address}": connects(inet6 if ":" in address else inet, (address, 80))
                for address in METADATA
            },
            "host name": names_host,
            **{
                f"read {path}": read(path)
                for path in (
                    "/etc/hostname",
                    "/etc/machine-id",
                    "/proc/cmdline",
                    "/proc/version",
                    "/proc/mounts",
                    "/proc/self/mountinfo",
                    "/proc/self/cgroup",
                    "/proc/self/status",
                    "/proc/self/maps",
                    "/proc/cpuinfo",
                    "/proc/meminfo",
                    "/proc/sys/kernel/random/boot_id",
                    "/proc/sys/kernel/hostname",
                    "/proc/net/route",
                    "/proc/uptime",
                    "/sys/class/dmi/id/product_name",
                    "/etc/localtime",
                )
            },
        },
        "kernel interfaces": {
            "mount": mounts,
            "new mount API": new_mount_api,
            "clone a mount": clones_tree,
            "user namespace": unshares(0x10000000),
            "user namespace as root": user_namespace_root,
            "user namespace by clone": clones(0x10000000),
            "user namespace by clone3": clones_by_structure,
            "network namespace by clone": clones(0x40000000),
            "mount namespace": unshares(0x20000),
            "pid namespace of the host": enters("/proc/1/ns/pid", 0x20000000),
            "bpf": loads_bpf,
            "perf": perf,
            "userfaultfd": userfault,
            "io_uring": uring,
            "keys": adds_key,
            "kernel log": kernel_log,
            "module": module,
            "chroot": chroots,
            "open by handle": opens_by_handle,
            "watch all files": watches_all,
            "become root": becomes(0),
            "become another user": becomes(65534),
            "other groups": lambda: os.setgroups([0]),
            "raise a limit": raises_limit,
            "capability": regains_capability,
            "rename the host": lambda: check(
                libc.sethostname(os.uname().nodename.encode(), len(os.uname().nodename))
            ),
            "set the clock": sets_clock,
            "read a sysctl": read("/proc/sys/kernel/pid_max"),
            "write a sysctl": openable("/proc/sys/vm/drop_caches", os.O_WRONLY),
            "list /sys": listed("/sys"),
            "list modules": read("/proc/modules"),
            "list symbols": read("/proc/kallsyms"),
            "cgroups": listed("/sys/fs/cgroup"),
        },
    }
    return [(kind, name, probe) for kind, of_kind in probes.items() for name, probe in of_kind.items()]


def nf_tables() -> None:
    """Ask netfilter for its generation: whoever may read the firewall gets an answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.settimeout(1)
        netlink.sendto(struct.pack("=IHHIIBBH", 20, (10 << 8) | 16, 1, 1, 0, 0, 0, 0), (0, 0))
        answer = netlink.recv(256)
        kind, error = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
        if kind == 2 and error < 0:
            raise OSError(-error, os.strerror(-error))


# --- the confinement ------------------------------------------------------------------------------------------------------


def seccomp_filters(pid: int) -> list[bytes]:
    """The filters of a running process, in the order in which they were installed."""
    check(libc.ptrace(0x4206, pid, None, None))  # SEIZE
    try:
        check(libc.ptrace(0x4207, pid, None, None))  # INTERRUPT
        os.waitpid(pid, 0x40000000)
        filters: list[bytes] = []
        while True:
            number = len(filters)
            try:
                length = check(libc.ptrace(0x420C, pid, number, None))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                break
            buffer = ctypes.create_string_buffer(8 * length)
            check(libc.ptrace(0x420C, pid, number, ctypes.addressof(buffer)))
            filters.append(buffer.raw)
        return filters
    finally:
        libc.ptrace(17, pid, None, None)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    wanted = (
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    )
    fields = dict(line.split(":", 1) for line in lines)
    return {name: fields[name].strip() for name in wanted}


def identity(pid: int) -> dict[str, object]:
    """All that makes up the confinement of a process, to compare two."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    groups = sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return {
        **status_of(pid),
        "namespaces": {
            name: str(Path(f"/proc/{pid}/ns/{name}").readlink())
            for name in (*NAMESPACES, "pid", "user", "cgroup")
        },
        "root": Path(f"/proc/{pid}/mountinfo").read_text(),
        "limits": [line for line in limits if line.startswith(("Max core", "Max open"))],
        "cgroups": groups,
        "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
    }


class Wall:
    """The confinement of one VMM, to be entered by forked processes."""

    def __init__(self, vmm: int) -> None:
        self.vmm = vmm
        self.filters = seccomp_filters(vmm)
        self.status = status_of(vmm)
        self.namespaces = {
            name: os.open(f"/proc/{vmm}/ns/{name}", os.O_RDONLY) for name in (*NAMESPACES, "pid")
        }
        self.last_capability = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        limits = Path(f"/proc/{vmm}/limits").read_text()
        self.limits = [
            (kind, re.findall(rf"Max {name} +(\d+) +(\d+)", limits)[0])
            for kind, name in (
                (resource.RLIMIT_CORE, "core file size"),
                (resource.RLIMIT_NOFILE, "open files"),
            )
        ]
        groups = [line.split(":", 2) for line in Path(f"/proc/{vmm}/cgroup").read_text().splitlines()]
        self.cgroups = [
            procs
            for _, controllers, path in groups
            if path != "/"
            for procs in (
                Path(f"/sys/fs/cgroup/{controllers}{path}/cgroup.procs"),
                Path(f"/sys/fs/cgroup{path}/cgroup.procs"),
            )
            if procs.exists()
        ]

    def enter_pid_namespace(self) -> None:
        """Have the next child be born in the VMM's pid namespace."""
        check(libc.setns(self.namespaces["pid"], 0x20000000))

    def enter(self) -> None:
        """Become as confined as the VMM, in a process that was born in its pid namespace."""
        for procs in self.cgroups:
            procs.write_text("0")
        Path("/proc/thread-self/oom_score_adj").write_text(
            Path(f"/proc/{self.vmm}/oom_score_adj").read_text()
        )
        check(libc.unshare(0x200))
        for name in NAMESPACES:
            check(libc.setns(self.namespaces[name], 0))
        for kind, (soft, hard) in self.limits:
            resource.setrlimit(kind, (int(soft), int(hard)))
        uid, gid = int(self.status["Uid"].split()[0]), int(self.status["Gid"].split()[0])
        os.setgroups([int(group) for group in self.status["Groups"].split()])
        for capability in range(self.last_capability + 1):
            check(libc.prctl(24, c(capability), c(0), c(0), c(0)))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        check(libc.prctl(38, c(1), c(0), c(0), c(0)))
        for code in self.filters:
            buffer = ctypes.create_string_buffer(code)
            program = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(buffer))
            check(libc.prctl(22, c(2), program, c(0), c(0)))


# --- running them ---------------------------------------------------------------------------------------------------------


def outcome_of(probe: Callable[[], object], before: Callable[[], None], result: int) -> None:
    """Run `before`, then the probe; write what came of it to the pipe, and end the process. Never returns."""
    try:
        before()
    except BaseException as error:  # noqa: BLE001
        os.write(result, f"broken {error!r}".encode())
        os._exit(2)
    try:
        probe()
    except OSError as error:
        os.write(result, errno.errorcode.get(error.errno or 0, repr(error)).encode())
        os._exit(1)
    except BaseException as error:  # noqa: BLE001
        os.write(result, repr(error).encode())
        os._exit(1)
    os._exit(0)


def run_probe(probe: Callable[[], object], before: Callable[[], None]) -> str:
    """`success`, or why not: the name of an errno, or of the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        outcome_of(probe, before, writer)
    os.close(writer)
    text = b""
    while piece := os.read(reader, 4096):
        text += piece
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "success" if os.WEXITSTATUS(status) == 0 else text.decode() or f"exit {os.WEXITSTATUS(status)}"


def make_stage(folder: str) -> Stage:
    victim = os.fork()
    if victim == 0:
        while True:
            signal.pause()
    listeners: list[socket.socket] = []

    def listen(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
        listener = socket.socket(family, kind)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen(64)
        listeners.append(listener)
        return listener

    tcp = listen(socket.AF_INET, ("0.0.0.0", 0)).getsockname()[1]
    udp = listen(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM).getsockname()[1]
    listen(socket.AF_INET6, ("::1", tcp))
    abstract = f"wrenn-probe-{os.getpid()}"
    listen(socket.AF_UNIX, "\0" + abstract)
    listen(socket.AF_UNIX, f"{folder}/s")
    return Stage(victim, tcp, udp, f"{folder}/s", abstract, listeners)


def cloud(address: str) -> Callable[[], None]:
    """Outside of the confinement there is a metadata service at `address`, as at a cloud provider's."""

    def before() -> None:
        check(libc.unshare(0x40000000))
        bits = 128 if ":" in address else 32
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", f"{address}/{bits}", "dev", "lo"], check=True)
        server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 80))
        server.listen(1)
        globals()["_metadata_server"] = server

    return before


def nothing() -> None:
    """Outside nothing is done before a probe."""


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process and return its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            print(json.dumps({"broken": repr(error)}), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def compare_identities(wall: Wall) -> dict[str, dict[str, object]]:
    """The confinement of the VMM and that of a process that has entered it."""
    ready, readied = os.pipe()
    go, let = os.pipe()
    reader, writer = os.pipe()

    def parent_of_it() -> None:
        wall.enter_pid_namespace()
        pid = os.fork()
        if pid == 0:
            wall.enter()
            os.write(readied, b"x")
            os.read(go, 1)
            os._exit(0)
        os.write(writer, str(pid).encode())
        os.waitpid(pid, 0)

    pid = os.fork()
    if pid == 0:
        parent_of_it()
        os._exit(0)
    confined = int(os.read(reader, 32))
    os.read(ready, 1)
    both = {"vmm": identity(wall.vmm), "probe": identity(confined)}
    os.write(let, b"x")
    os.waitpid(pid, 0)
    return both


def main() -> None:
    """See the module."""
    target = Target(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="wrenn-probe-") as folder:
        stage = make_stage(folder)
        try:
            wall = Wall(target.vmm)
            print(json.dumps({"identity": compare_identities(wall)}), flush=True)
            probes = all_probes(target, stage)
            outside = [
                run_probe(probe, cloud(name) if name in METADATA else nothing) for _, name, probe in probes
            ]

            def inside() -> None:
                wall.enter_pid_namespace()
                for (kind, name, probe), before in zip(probes, outside, strict=True):
                    found = run_probe(probe, wall.enter)
                    print(
                        json.dumps({"kind": kind, "name": name, "outside": before, "inside": found}),
                        flush=True,
                    )

            in_child(inside)
        finally:
            os.kill(stage.victim, signal.SIGKILL)
            os.waitpid(stage.victim, 0)


if __name__ == "__main__":
    main()
