"""Makes an image of a container image of a registry: pulls it with skopeo, unpacks it with umoci, packs it as ext4.

Everything that comes from the registry is hostile. All programs that see it run in a jail (`linux/jail.py`): as nobody of
the host, with nothing of the host's files, in a cgroup. Only the download has a network: a slot, as a sandbox has, with the policy
that the caller names. Bytes, entries and time are limited.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import stat
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar, cast

from wrenn.agent.confinement import Confiner
from wrenn.agent.images.disk_of import IMAGE_PREFIX
from wrenn.agent.images.job import ContainerSource, Phase, Progress
from wrenn.agent.images.pulled_images import PulledImages, key_of
from wrenn.agent.layout import IMAGE_JOB_SLOTS, Layout
from wrenn.base.errors import (
    AgentFailure,
    Forbidden,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unavailable,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.linux.command import CommandError
from wrenn.linux.disk_space import free_b, has_free_inodes
from wrenn.linux.jail import PROGRAMS, WORK, Jail
from wrenn.linux.private_root import PrivateRoot, RootFile, build_private_root
from wrenn.linux.threads import run_to_end
from wrenn.linux.trees import REMOVE_TIMEOUT_S, remove_any_tree
from wrenn.network import Slots
from wrenn.storage.images import ROOTFS, ContainerConfig, ImageFacts, check_layers
from wrenn.storage.images.template import mkfs_arguments
from wrenn.vm import Shape

SKOPEO: Final = Path("/usr/bin/skopeo")
UMOCI: Final = Path("/usr/bin/umoci")
_MKFS: Final = Path("/usr/sbin/mkfs.ext4")
_PACKAGES: Final = {SKOPEO: "skopeo", UMOCI: "umoci", _MKFS: "e2fsprogs"}
"""Programs, and the packages that they come from."""
_SHAPE: Final = Shape(vcpus=2, memory_mb=512)
"""What the programs of one import may take."""
_PULL_TIMEOUT_S: Final = 1800.0
_PULL_LEAST_B: Final = MIB
_PULL_STILL_S: Final = 60.0
"""A download that brings less than that in this time is ended, as others wait for its place."""
_PACKED_AT_ONCE: Final = 2
_INSPECT_TIMEOUT_S: Final = 60.0
_CHECK_TIMEOUT_S: Final = 1200.0
_UNPACK_TIMEOUT_S: Final = 1200.0
_PACK_TIMEOUT_S: Final = 600.0
_MANIFEST_B: Final = 4 * MIB
_LAYERS_FACTOR: Final = 4
"""How much larger the sum of all layers may be than the disk: later layers replace and remove files of earlier ones."""
_PULLED_FILES_LIMIT: Final = 2_000
_ENTRIES_LIMIT: Final = 1_000_000
_BYTES_PER_INODE: Final = 16 * 1024
"""Of `mkfs.ext4`: the number of files for which a disk has room."""
_DISK_LIMIT_MB: Final = 1024 * 1024
_WATCH_S: Final = 0.5
_FILE_OVERHEAD_B: Final = 64 * MIB
_REFERENCE: Final = re.compile(
    r"[a-z0-9][a-z0-9._:/-]{0,254}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_MOUNT_POINTS: Final = ("dev", "etc", "proc", "root", "run", "sys", "tmp")
"""Folders that the guest agent needs; some images lack them."""
_ARCHIVE: Final = "archive.tar"
_ARCHIVES: Final = ("oci-archive", "docker-archive")
_EMPTY: Final = "scratch"
"""The image without files, which no registry has."""
_SCRIPT: Final = Path("/check_layers.py")
_NO_SUCH_IMAGE: Final = ("manifest unknown", "name unknown", "not found", "status 404")
_NOT_ALLOWED: Final = (
    "unauthorized",
    "authentication required",
    "denied",
    "forbidden",
    "status 401",
    "status 403",
)
_FULL: Final = "no space left"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a container image, in full.

    Attributes:
        name: with the registry's name.
        version: `:tag` or `@sha256:…`.
    """

    name: str
    version: str

    @property
    def registry(self) -> str:
        """The registry's name, and its port if the reference has one."""
        return self.name.partition("/")[0]

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as people write it: the registry may be missing (`docker.io`), and the tag (`latest`).

        Raises:
            InvalidRequest: it is none.
        """
        bare, _, digest = text.partition("@")
        head, slash, last = bare.rpartition("/")
        last, _, tag = last.partition(":")
        name = f"{head}{slash}{last}"
        canonical = f"{name}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
        if (
            not last
            or ":" in tag + name.partition("/")[2]
            or canonical != text
            or _REFERENCE.fullmatch(text) is None
            or ".." in name
            or "//" in name
        ):
            raise InvalidRequest(f"{text[:200]!r} is no reference to a container image.")
        first = name.partition("/")[0]
        if "/" not in name or not (set(first) & {".", ":"} or first == "localhost"):
            name = f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"
        return cls(name, f"@{digest}" if digest else f":{tag or 'latest'}")

    def __str__(self) -> str:
        return f"{self.name}{self.version}"


IsKnown = Callable[[Reference], Awaitable[bool]]
"""Whether an image of this container image is here already; it is put into the draft then."""


@dataclass(frozen=True, slots=True)
class ImportContainer:
    """Imports container images.

    Attributes:
        name_servers: those that the download asks, separated by commas.
        reserve_b: free space on the host's disk that must remain.
        pulled: images that were pulled before.
        packing: held while layers are unpacked and packed, which takes processors and disk; more images are pulled at a time.
    """

    layout: Layout
    slots: Slots
    confiner: Confiner
    name_servers: str
    reserve_b: int
    pulled: PulledImages
    packing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PACKED_AT_ONCE))

    async def run(
        self,
        source: ContainerSource,
        image_id: ImageId,
        draft: Path,
        progress: Progress,
        *,
        job_slot: int,
        archive: bytes | None = None,
    ) -> ImageFacts:
        """Write the image into the draft, that of a registry or the one in an archive. Afterwards none of its processes is left.

        Raises:
            InvalidRequest: the reference or the image is not acceptable. NotFound, Forbidden: the registry says so.
            Unavailable: a program is missing, or the registry does not answer. StorageFull: no room.
        """
        if archive is not None:
            reference = _archived(source.reference, archive)
        else:
            reference = None if source.reference == _EMPTY else Reference.parse(source.reference)
        if not 0 < source.disk_size_mb <= _DISK_LIMIT_MB:
            raise InvalidRequest(f"disk_size_mb: between 1 and {_DISK_LIMIT_MB}.")
        for program, package in _PACKAGES.items():
            if not program.exists():
                raise Unavailable(
                    f"This host cannot import container images: the package {package} is not installed."
                )
        name, size_b = f"{IMAGE_PREFIX}{image_id}", source.disk_size_mb * MIB
        work, first_id = draft / "work", self.layout.image_ids(job_slot)
        async with Undo() as undo:
            work.mkdir(mode=0o700)
            undo.push("remove files", partial(remove_any_tree, work), timeout_s=REMOVE_TIMEOUT_S)
            os.chown(work, first_id, first_id)
            root = await self._root(draft)
            undo.push("close root", partial(asyncio.to_thread, root.close))
            undo.push("remove cgroup", partial(self.confiner.release, name))
            # Its user id is not used: the programs have those of the jail.
            confinement = self.confiner.confine(
                name, IMAGE_JOB_SLOTS[0], _SHAPE, file_size_b=_LAYERS_FACTOR * size_b + _FILE_OVERHEAD_B
            )
            jail = Jail(
                root=root,
                work=work,
                first_id=first_id,
                cgroup_procs=confinement.cgroup_procs,
                file_size_b=confinement.file_size_b,
                # Programs of Go make a thread for each core, and the number of threads is limited.
                environment={"HOME": str(WORK), "TMPDIR": str(WORK), "GOMAXPROCS": "2", **_CERTIFICATES},
            )
            run = _Import(jail, progress, size_b, self.reserve_b)
            if reference is None:
                progress.begin(Phase.PACK)
                await run.make_empty()
                await run.pack(draft / ROOTFS)
                return ImageFacts.new(reference=_EMPTY, config=ContainerConfig())
            progress.begin(Phase.PULL)
            known: ImageFacts | None = None

            async def is_known(pinned: Reference) -> bool:
                nonlocal known
                if source.scope:
                    known = await asyncio.to_thread(self.pulled.take, _key(source, pinned), draft)
                return known is not None

            if archive is None:
                pinned = await self._pull(run, source, reference, name, is_known)
            else:
                pinned = reference
                if not await is_known(pinned):
                    await run.copy_archive(source.reference, archive)
            await fault_point("agent.image.after_pull")
            if known is not None:
                return known
            async with self.packing:
                progress.begin(Phase.UNPACK)
                config = await run.check()
                await run.unpack()
                await fault_point("agent.image.after_unpack")
                progress.begin(Phase.PACK)
                await run.pack(draft / ROOTFS)
            facts = ImageFacts.new(reference=str(pinned), config=config)
            if source.scope:
                await run_to_end(partial(self.pulled.keep, _key(source, pinned), draft, facts))
        return facts

    async def _pull(
        self, run: _Import, source: ContainerSource, reference: Reference, owner: str, is_known: IsKnown
    ) -> Reference:
        async with Undo() as undo:
            slot = await self.slots.acquire(owner)
            undo.push("release slot", partial(self.slots.release, slot.index, owner))
            await self.slots.set_egress(slot.index, source.policy)
            return await run.pull(source, reference, network=slot.namespace, is_known=is_known)

    async def _root(self, draft: Path) -> PrivateRoot:
        servers = [one.strip() for one in self.name_servers.split(",") if one.strip()]
        resolver = draft / "resolv.conf"
        resolver.write_text("".join(f"nameserver {server}\n" for server in servers))
        resolver.chmod(0o644)
        paths = sysconfig.get_paths()
        standard_library = {Path(paths["stdlib"]), Path(paths["platstdlib"])}
        zlib = [path for folder in standard_library for path in (folder / "lib-dynload").glob("zlib.*.so")]
        given = [Path(name) for name in ("/etc/mke2fs.conf", "/etc/ssl/certs", "/usr/share/ca-certificates")]
        return await build_private_root(
            [*PROGRAMS, *_PACKAGES, _python(), *zlib],
            files=[
                RootFile(Path("/dev/null"), device=True),
                RootFile(Path("/dev/urandom"), device=True),
                RootFile(Path("/etc/resolv.conf"), resolver),
                RootFile(_SCRIPT, Path(check_layers.__file__)),
                *(RootFile(path) for path in (*sorted(standard_library), *given) if path.exists()),
            ],
            folders=[WORK],
        )


_CERTIFICATES: Final = {"SSL_CERT_DIR": "/etc/ssl/certs"}


def _python() -> Path:
    """Return the interpreter, not the virtual environment's link to it."""
    return Path(sys.executable).resolve()


@dataclass(frozen=True, slots=True)
class _Import:
    """The steps of one import."""

    jail: Jail
    progress: Progress
    size_b: int
    reserve_b: int

    async def pull(
        self, source: ContainerSource, reference: Reference, *, network: str, is_known: IsKnown
    ) -> Reference:
        """Download the image into `layout`, unless it is known. Returns the reference with its digest.

        The registry is asked in any case, so that it decides who may have the image.
        """
        options = [f"--tls-verify={'false' if source.insecure_registry else 'true'}"]
        if source.username:
            options.append(f"--authfile={WORK / 'auth.json'}")
            self._write_credentials(source, reference.registry)
        try:
            raw = await self._skopeo(
                ["inspect", "--raw", *options, f"docker://{reference}"],
                network,
                timeout_s=_INSPECT_TIMEOUT_S,
            )
            pinned = Reference(reference.name, f"@sha256:{sha256(raw).hexdigest()}")
            if reference.version.startswith("@") and pinned != reference:
                raise InvalidRequest("The registry sent another image than the one with this digest.")
            reference = pinned
            if await is_known(reference):
                return reference
            copy = [
                "copy", "--quiet", *(f"--src-{option[2:]}" for option in options),
                f"docker://{reference}", f"oci:{WORK}/layout:image",
            ]  # fmt: skip
            await self._watched(self._skopeo(copy, network, timeout_s=_PULL_TIMEOUT_S), self._checked_pace())
        finally:
            (self.jail.work / "auth.json").unlink(missing_ok=True)
        return reference

    async def copy_archive(self, kind: str, archive: bytes) -> None:
        """Copy the image in the archive into `layout`."""
        path = self.jail.work / _ARCHIVE
        try:
            await run_to_end(partial(self._write_archive, path, archive))
            argv = [
                str(SKOPEO), "--insecure-policy", "--override-os=linux", "--override-arch=amd64",
                f"--tmpdir={WORK}", "copy", "--quiet", f"{kind}:{WORK / _ARCHIVE}", f"oci:{WORK}/layout:image",
            ]  # fmt: skip
            await self._watched(self.jail.run(argv, timeout_s=_UNPACK_TIMEOUT_S), self._check_pulled)
        except CommandError as error:
            if _FULL in str(error.context.get("stderr", "")).lower():
                raise StorageFull("The disk of the host is full: the image could not be unpacked.") from error
            raise InvalidRequest(
                f"The archive is not one container image for linux/amd64 in the format {kind}.",
                context=error.context,
            ) from error
        finally:
            path.unlink(missing_ok=True)

    def _write_archive(self, path: Path, archive: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(fd, "wb") as file:
            os.fchown(fd, self.jail.first_id, self.jail.first_id)
            file.write(archive)

    def _write_credentials(self, source: ContainerSource, registry: str) -> None:
        password = source.password.reveal() if source.password is not None else ""
        entry = base64.b64encode(f"{source.username}:{password}".encode()).decode()
        path = self.jail.work / "auth.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(fd, "w") as file:
            os.fchown(fd, self.jail.first_id, self.jail.first_id)
            json.dump({"auths": {registry: {"auth": entry}}}, file)

    async def _skopeo(self, arguments: Sequence[str], network: str, *, timeout_s: float) -> bytes:
        argv = [
            str(SKOPEO), "--insecure-policy", "--override-os=linux", "--override-arch=amd64",
            f"--command-timeout={int(timeout_s)}s", *arguments,
        ]  # fmt: skip
        try:
            return await self.jail.run(argv, timeout_s=timeout_s, network=network, output_limit_b=_MANIFEST_B)
        except CommandError as error:
            said = str(error.context.get("stderr", "")).lower()
            if _FULL in said:
                raise StorageFull("The disk of the host is full: the image could not be pulled.") from error
            if any(text in said for text in _NOT_ALLOWED):
                raise Forbidden(
                    "The registry does not let this image be pulled with these credentials."
                ) from error
            if any(text in said for text in _NO_SUCH_IMAGE):
                raise NotFound("The registry has no such image.") from error
            raise Unavailable(
                "The image could not be pulled: the registry is not reachable or does not serve it.",
                context=error.context,
            ) from error

    def _checked_pace(self) -> Callable[[], None]:
        """Return a check of a download that also ends a slow one."""
        since, at_b = time.monotonic(), 0

        def check() -> None:
            nonlocal since, at_b
            self._check_pulled()
            now, done_b = time.monotonic(), self.progress.done_b
            if done_b - at_b >= _PULL_LEAST_B:
                since, at_b = now, done_b
            elif now - since > _PULL_STILL_S:
                raise Unavailable("The image could not be pulled: the registry sends it too slowly.")

        return check

    def _check_pulled(self) -> None:
        done_b = 0
        with suppress(FileNotFoundError, NotADirectoryError):
            for folder in ("layout", "layout/blobs/sha256"):
                # An image has some hundred layers; whoever writes more files is stopped by the limit of the disk.
                for entry in islice(os.scandir(self.jail.work / folder), _PULLED_FILES_LIMIT):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        done_b += status.st_size if stat.S_ISREG(status.st_mode) else 0
        self.progress.report(done_b, 0)
        if done_b > self.size_b * _LAYERS_FACTOR:
            raise InvalidRequest("The image is much larger than the disk that it was to be put on.")

    async def check(self) -> ContainerConfig:
        """Check the layers and remove device nodes from them. Returns the image's configuration."""
        entries = min(_ENTRIES_LIMIT, self.size_b // _BYTES_PER_INODE)
        argv = [
            str(_python()), "-I", "-S", str(_SCRIPT), f"{WORK}/layout",
            str(entries), str(_LAYERS_FACTOR * self.size_b),
        ]  # fmt: skip
        try:
            output = await self._watched(
                self.jail.run(argv, timeout_s=_CHECK_TIMEOUT_S, output_limit_b=_MANIFEST_B)
            )
            report = json.loads(output)
        except (CommandError, ValueError) as error:
            raise InvalidRequest(
                "The layers of the image cannot be read within the limits of memory and time.",
                context=error.context if isinstance(error, CommandError) else {},
            ) from error
        if not isinstance(report, dict):
            raise InvalidRequest("The layers of the image cannot be read.")
        given = cast("dict[str, object]", report)
        if "error" in given:
            raise InvalidRequest(str(given["error"]))
        return ContainerConfig.of_image(given.get("config"))

    async def unpack(self) -> None:
        """Unpack the layers into `bundle/rootfs`."""
        argv = [str(UMOCI), "unpack", "--image", f"{WORK}/layout:image", f"{WORK}/bundle"]
        try:
            await self._watched(self.jail.run(argv, timeout_s=_UNPACK_TIMEOUT_S))
        except CommandError as error:
            if _FULL in str(error.context.get("stderr", "")):
                raise StorageFull("The disk of the host is full: the image could not be unpacked.") from error
            raise InvalidRequest(
                "The layers of the image cannot be unpacked.", context=error.context
            ) from error
        rootfs = self._rootfs
        # Root follows no link that a program of the image's may have left.
        for folder in (rootfs.parent, rootfs):
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise InvalidRequest("The layers of the image cannot be unpacked.")
        self._add_mount_points()
        await remove_any_tree(self.jail.work / "layout")

    async def make_empty(self) -> None:
        """Make `bundle/rootfs` of an image without files."""
        for folder in (self._rootfs.parent, self._rootfs):
            folder.mkdir(mode=0o755)
            os.chown(folder, self.jail.first_id, self.jail.first_id)
        self._add_mount_points()

    @property
    def _rootfs(self) -> Path:
        return self.jail.work / "bundle/rootfs"

    def _add_mount_points(self) -> None:
        for name in _MOUNT_POINTS:
            path = self._rootfs / name
            if not os.path.lexists(path):
                path.mkdir()
                # Whatever the umask is.
                path.chmod(0o1777 if name == "tmp" else 0o755)
                os.chown(path, self.jail.first_id, self.jail.first_id)

    async def pack(self, image: Path) -> None:
        """Pack the unpacked files as `image`."""
        packed = self.jail.work / ROOTFS
        with packed.open("xb") as file:
            file.truncate(self.size_b)
        os.chown(packed, self.jail.first_id, self.jail.first_id)
        argv = [str(_MKFS), *mkfs_arguments(Path(f"{WORK}/bundle/rootfs"), WORK / ROOTFS)]
        try:
            await self._watched(self.jail.run(argv, timeout_s=_PACK_TIMEOUT_S))
        except CommandError as error:
            said = str(error.context.get("stderr", "")).lower()
            if _FULL in said and free_b(image.parent) < self.reserve_b:
                raise StorageFull("The disk of the host is full: the image could not be packed.") from error
            raise InvalidRequest(
                f"The image does not fit on a disk of {self.size_b // MIB} MB, or has files that ext4 cannot hold.",
                context=error.context,
            ) from error
        status = packed.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size != self.size_b:
            raise AgentFailure("The image was not packed.")
        packed.rename(image)

    async def _watched(self, work: Awaitable[_T], check: Callable[[], None] = lambda: None) -> _T:
        """Wait for `work`, and end it when the host's disk is full or `check` raises."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_WATCH_S))[0]:
                if free_b(self.jail.work) < self.reserve_b or not has_free_inodes(self.jail.work):
                    raise StorageFull("The disk of the host is full: the image could not be imported.")
                check()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


def _archived(kind: str, archive: bytes) -> Reference:
    """Return what identifies the image in an archive. Raises InvalidRequest: of a format that is not known."""
    if kind not in _ARCHIVES:
        raise InvalidRequest(f"{kind[:64]!r} is no format of an archive with a container image.")
    return Reference(kind, f"@sha256:{sha256(archive).hexdigest()}")


def _key(source: ContainerSource, pinned: Reference) -> str:
    return key_of(source.scope, str(pinned), source.disk_size_mb)


def missing_packages() -> list[str]:
    """Return the packages that this host lacks for the import of container images."""
    return [package for program, package in _PACKAGES.items() if shutil.which(str(program)) is None]
