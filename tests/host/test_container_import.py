"""Container images on a host: pulled from a real registry, unpacked and packed by confined programs. Costs about 40 s."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tarfile
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from network_kit import internet, private_host

from tests.container_images import (
    PASSWORD,
    PASSWORD_FILE,
    REGISTRY_PORT,
    USERNAME,
    Layer,
    push,
    registry,
    write_layout,
)
from wrenn.agent.confinement import CgroupConfiner
from wrenn.agent.doctor.leftovers import list_everything
from wrenn.agent.images import Cache, ContainerSource, Images, ImageStatus, Phase, Progress
from wrenn.agent.images.container import ImportContainer, Reference, missing_packages
from wrenn.agent.images.job import Source
from wrenn.agent.images.pulled_images import PulledImages
from wrenn.agent.layout import IMPORT_SLOTS, Layout
from wrenn.base.errors import InvalidRequest
from wrenn.base.faults import arm_faults
from wrenn.base.ids import ImageId
from wrenn.base.secrets import Secret
from wrenn.linux import cgroups, threads
from wrenn.linux.command import run
from wrenn.linux.jail import ID_COUNT
from wrenn.network import (
    EgressPolicy,
    ReachableNetworks,
    Slots,
    claim_block,
    leftovers,
    release_block,
    remove_everything,
)
from wrenn.sdk._image_archive import packed_image
from wrenn.storage.images import ImageFacts, ImageFolder

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ALLOWED, PRIVATE, METADATA = "10.20.0.1", "192.168.7.1", "169.254.169.254"
BUSYBOX = Path("/usr/bin/busybox")
"""Of bcrypt, the only kind that the registry accepts."""


@dataclass
class Host:
    images: Images
    layout: Layout
    namespace: str
    scratch: Path
    archive: bytes = b""

    async def imported(self, name: str, *, disk_size_mb: int = 64, **fields: object) -> ImageStatus:
        """Import `name` of the registry; return the final status."""
        source = ContainerSource(
            f"{ALLOWED}:{REGISTRY_PORT}/{name}",
            disk_size_mb,
            insecure_registry=True,
            **fields,  # type: ignore[arg-type]
        )
        return await self.images.ensure(ImageId.new(), source, wait_s=60)

    async def from_archive(self, kind: str, archive: bytes) -> ImageStatus:
        """Import the image in an archive of the store; return the final status."""
        self.archive = archive
        source = ContainerSource(kind, 64, scope="ada", archive_url=Secret("/archive"))
        return await self.images.ensure(ImageId.new(), source, wait_s=60)

    async def refused(self, name: str, *, disk_size_mb: int = 64, **fields: object) -> tuple[str, str]:
        """Import what is refused; return code and message."""
        status = await self.imported(name, disk_size_mb=disk_size_mb, **fields)
        assert status.failure is not None
        await self.assert_nothing_left()
        return status.failure.code, status.failure.message

    async def assert_nothing_left(self) -> None:
        assert ImageFolder(self.layout.images).drafts() == []
        assert cgroups.children(self.layout.cgroup_root) == []
        assert confined_processes(self.layout) == []


def confined_processes(layout: Layout) -> list[str]:
    """Processes of the ids that images of this installation are unpacked with."""
    ids = range(layout.image_ids(IMPORT_SLOTS[0]), layout.image_ids(IMPORT_SLOTS[-1]) + ID_COUNT)
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if entry.stat().st_uid in ids:
                found.append(entry.name)
    return found


async def listing(rootfs: Path, path: str) -> str:
    """What debugfs says about a file of the image."""
    return (await run(["debugfs", "-R", f"stat {path}", str(rootfs)], timeout_s=10)).decode()


async def content(rootfs: Path, path: str) -> str:
    return (await run(["debugfs", "-R", f"cat {path}", str(rootfs)], timeout_s=10)).decode()


async def fill_thread_pool() -> None:
    """Have the pool start all its threads: one that begins in a namespace of the test would stay there for other tests."""
    size = 32
    barrier = threading.Barrier(size)
    await asyncio.gather(*(threads.start(barrier.wait, 20) for _ in range(size)))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncGenerator[Host]:
    """An agent's part for images, on a machine of its own with a registry behind its uplink."""
    if missing := missing_packages():
        pytest.fail(f"these packages are needed: {', '.join(missing)}")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    block = claim_block(data_dir)
    layout = Layout(data_dir, block)
    await fill_thread_pool()
    try:
        with private_host():
            async with internet(block) as namespace, registry(namespace, tmp_path / "registry"):
                slots = Slots(
                    block,
                    vmm_uid=0,
                    vmm_gid=0,
                    ready_target=0,
                    reach=ReachableNetworks.parse(name_servers="", allowed=ALLOWED),
                )
                await slots.start({})
                containers = ImportContainer(
                    layout, slots, CgroupConfiner(layout), "", 1, PulledImages(layout.pulled, limit_b=1 << 30)
                )

                async def no_upload(*_: object) -> int:
                    raise AssertionError

                async def prepare(
                    source: Source, image_id: ImageId, draft: Path, progress: Progress, *, job_slot: int
                ) -> ImageFacts:
                    assert isinstance(source, ContainerSource), "only container images are asked for"
                    archive = host.archive if source.archive_url is not None else None
                    return await containers.run(
                        source, image_id, draft, progress, job_slot=job_slot, archive=archive
                    )

                images = Images(
                    folder=ImageFolder(layout.images),
                    data_dir=data_dir,
                    reserve_b=1,
                    prepare=prepare,
                    upload=no_upload,
                    cache=Cache(0, set[str], lambda: None),
                )
                host = Host(images, layout, namespace, tmp_path)
                yield host
                await images.close()
                await slots.close()
                await remove_everything(block)
                assert await leftovers(block, ()) == []
    finally:
        arm_faults("")
        await cgroups.remove(layout.cgroup_root, timeout_s=10)
        release_block(data_dir)


def base() -> Layer:
    """A root file system of one static program."""
    layer = Layer().folder("bin").folder("etc").folder("srv", 0o750)
    layer.add("bin/busybox", BUSYBOX.read_bytes(), mode=0o4755)
    layer.add("bin/sh", kind=tarfile.SYMTYPE, target="busybox")
    layer.add("bin/ls", kind=tarfile.LNKTYPE, target="bin/busybox")
    layer.add("etc/owned", b"by somebody", owner=(1234, 65_000), mode=0o640)
    return layer.add("etc/gone", b"in the first layer").add("etc/changed", b"old")


async def test_an_image_has_the_files_of_all_layers_and_the_configuration(host: Host) -> None:
    upper = Layer().add("etc/.wh.gone").add("etc/changed", b"new")
    config: dict[str, object] = {
        "User": "1234:65000",
        "Env": ["PATH=/bin", "A=1"],
        "WorkingDir": "/srv",
        "Entrypoint": ["/bin/sh"],
        "Cmd": ["-c", "ls"],
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"a": "b"},
    }
    await push(host.namespace, host.scratch, "team/app:1", [base().done(), upper.done()], config)
    image = (await host.imported("team/app:1")).ready
    assert image is not None
    facts = image.facts
    assert facts.reference.startswith(f"{ALLOWED}:{REGISTRY_PORT}/team/app@sha256:")
    assert facts.config is not None
    assert (facts.config.user, facts.config.environment) == ("1234:65000", ("PATH=/bin", "A=1"))
    assert (facts.config.entrypoint, facts.config.command) == (("/bin/sh",), ("-c", "ls"))
    assert (facts.config.working_dir, facts.config.exposed_ports) == ("/srv", ("80/tcp",))
    assert image.size_b == 64 << 20
    assert await content(image.rootfs, "/etc/changed") == "new"
    assert "File not found" in (await content(image.rootfs, "/etc/gone") or "File not found")
    owned = await listing(image.rootfs, "/etc/owned")
    assert "User:  1234   Group: 65000" in owned
    assert "Mode:  0640" in owned
    program = await listing(image.rootfs, "/bin/busybox")
    assert "Mode:  04755" in program
    assert "Links: 2" in program
    for folder in ("/proc", "/sys", "/dev", "/tmp"):
        assert "Type: directory" in await listing(image.rootfs, folder)
    await run(["e2fsck", "-fn", str(image.rootfs)], timeout_s=20)  # made by us of files, not by a guest
    # The digest that was pulled names the same image for ever.
    again = await host.imported(facts.reference.partition("/")[2])
    assert again.ready is not None
    assert again.ready.facts.reference == facts.reference
    await host.assert_nothing_left()


async def test_an_image_that_was_pulled_is_not_pulled_again_by_the_same_team(host: Host) -> None:
    await push(host.namespace, host.scratch, "team/app:1", [base().done()], {"User": "7"})
    first = (await host.imported("team/app:1", scope="ada")).ready
    assert first is not None
    # Its layers are gone from the registry, its manifest is not.
    layer = max(
        (path for path in (host.scratch / "registry").rglob("data")), key=lambda path: path.stat().st_size
    )
    layer.unlink()
    again = (await host.imported("team/app:1", scope="ada")).ready
    assert again is not None
    assert again.rootfs.samefile(first.rootfs)
    assert (again.facts.reference, again.facts.config) == (first.facts.reference, first.facts.config)
    pinned = (await host.imported(f"team/app@{first.facts.reference.partition('@')[2]}", scope="ada")).ready
    assert pinned is not None
    # Not for another team, another size, or without a team.
    for fields in ({"scope": "eve"}, {"scope": "ada", "disk_size_mb": 96}, {}):
        assert (await host.imported("team/app:1", **fields)).failure is not None  # type: ignore[arg-type]
    # What the tag names now.
    await push(host.namespace, host.scratch, "team/app:2", [base().add("new", b"1").done()], {"User": "7"})
    other = (await host.imported("team/app:2", scope="ada")).ready
    assert other is not None
    assert not other.rootfs.samefile(first.rootfs)
    # Who the registry does not let have it does not get it from the host either.
    refused = await host.imported("team/missing:1", scope="ada")
    assert refused.failure is not None
    await host.assert_nothing_left()


async def test_a_local_image_is_imported_without_any_network(host: Host) -> None:
    layout, kinds = host.scratch / "local", ("oci-archive", "docker-archive")
    write_layout(layout, [base().done()], {"User": "7"})
    oci, docker = host.scratch / "oci.tar", host.scratch / "docker.tar"
    with packed_image(layout) as file:
        oci.write_bytes(file.read())
    await run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:image", f"docker-archive:{docker}:a:1"],
        timeout_s=60,
    )  # fmt: skip
    for kind, path in zip(kinds, (oci, docker), strict=True):
        image = (await host.from_archive(kind, path.read_bytes())).ready
        image = (await host.from_archive(kind, path.read_bytes())).ready
        assert image is not None
        assert image.facts.reference.startswith(f"{kind}@sha256:")
        assert image.facts.config is not None
        assert image.facts.config.user == "7"
        assert await content(image.rootfs, "/etc/changed") == "old"
        again = (await host.from_archive(kind, path.read_bytes())).ready
        assert again is not None
        assert again.rootfs.samefile(image.rootfs)
    # What is no such archive, is cut off, or is of a kind that would read files of the host.
    evil = tarfile_with_link()
    for kind, data in (
        ("oci-archive", docker.read_bytes()),
        ("docker-archive", docker.read_bytes()[:100_000]),
        ("oci-archive", evil),
        ("docker-archive", evil),
        ("docker-archive", b""),
        ("dir", oci.read_bytes()),
        ("oci-archive:/etc", oci.read_bytes()),
    ):
        status = await host.from_archive(kind, data)
        assert status.failure is not None, kind
        assert status.failure.code == InvalidRequest.code
        await host.assert_nothing_left()


def tarfile_with_link() -> bytes:
    """An archive whose files are links to files outside."""
    layer = Layer().add("oci-layout", kind=tarfile.SYMTYPE, target="/etc/passwd")
    layer.add("index.json", kind=tarfile.SYMTYPE, target="/etc/passwd")
    layer.add("manifest.json", kind=tarfile.SYMTYPE, target="/etc/passwd")
    return layer.add("../../escaped", b"x").done()


async def test_hostile_layers_stay_in_the_image(host: Host) -> None:
    marker = host.scratch / "marker"
    marker.write_text("of the host")
    long = "n" * 255
    hostile = (
        Layer()
        .add("../../../../escaped", b"x")
        .add(f"/{marker}", b"overwritten")
        .add("out", kind=tarfile.SYMTYPE, target=str(host.scratch))
        .add("out/marker", b"overwritten by a link")
        .add("dev/null", kind=tarfile.CHRTYPE)
        .add("dev/sda", kind=tarfile.BLKTYPE)
        .add("run/pipe", kind=tarfile.FIFOTYPE)
        .add("suid", b"x", mode=0o6755)
        .add(long, b"long")
        .add("deep/" * 300 + "file", b"deep")
        .add(".wh..wh..opq")
    )
    await push(host.namespace, host.scratch, "hostile:1", [base().done(), hostile.done()])
    status = await host.imported("hostile:1")
    assert status.ready is not None, status.failure
    rootfs = status.ready.rootfs
    assert marker.read_text() == "of the host"
    assert not Path("/escaped").exists()
    assert await content(rootfs, f"/{long}") == "long"
    assert "Mode:  06755" in await listing(rootfs, "/suid")
    assert "Type: FIFO" in await listing(rootfs, "/run/pipe")
    assert (await listing(rootfs, "/dev/sda")).strip() == "", "device nodes are left out"
    await host.assert_nothing_left()


async def test_what_cannot_be_imported_is_refused_with_the_reason_and_leaves_nothing(host: Host) -> None:
    zeros = Layer().add("zeros", bytes(40 << 20)).done()
    large = Layer().add("large", os.urandom(20 << 20)).done()
    many = Layer()
    for number in range(2000):
        many.add(f"f{number}")
    await push(host.namespace, host.scratch, "bomb:1", [zeros] * 2)
    await push(host.namespace, host.scratch, "large:1", [large])
    await push(host.namespace, host.scratch, "many:1", [many.done()])
    await push(host.namespace, host.scratch, "broken:1", [b"no tar archive, but something else" * 100])
    await push(
        host.namespace, host.scratch, "link:1", [Layer().add("a", kind=tarfile.LNKTYPE, target="b").done()]
    )
    await push(host.namespace, host.scratch, "config:1", [base().done()], {"Env": ["x"] * 300})
    assert await host.refused("absent:1") == ("not_found", "The registry has no such image.")
    assert "layers of the image have more than" in (await host.refused("bomb:1", disk_size_mb=16))[1]
    assert "does not fit" in (await host.refused("large:1", disk_size_mb=16))[1]
    assert "more than 1024 files" in (await host.refused("many:1", disk_size_mb=16))[1]
    assert "cannot be" in (await host.refused("broken:1"))[1]
    assert "cannot be unpacked" in (await host.refused("link:1"))[1]
    assert "more than 256 entries" in (await host.refused("config:1"))[1]
    for reference in ("", "-v", "a b", "name@sha256:1", "../x", "reg.io//x", "name:tag:tag", "reg.io/a:1/b"):
        source = ContainerSource(reference, 64)
        status = await host.images.ensure(ImageId.new(), source, wait_s=5)
        assert status.failure is not None
        assert status.failure.code == "invalid_request", reference


async def test_a_download_reaches_only_what_a_sandbox_of_the_team_may(host: Host) -> None:
    await push(host.namespace, host.scratch, "app:1", [base().done()])
    for address in (PRIVATE, METADATA):
        source = ContainerSource(f"{address}:{REGISTRY_PORT}/app:1", 64, insecure_registry=True)
        status = await host.images.ensure(ImageId.new(), source, wait_s=100)
        assert status.failure is not None
        assert status.failure.code == "host_unavailable", address
    assert (await host.refused("app:1", policy=EgressPolicy(allow_internet=False)))[0] == "host_unavailable"
    policy = EgressPolicy.parse(allow_internet=False, allow=[ALLOWED])
    assert (await host.imported("app:1", policy=policy)).ready is not None


async def test_credentials_are_used_and_left_nowhere(host: Host) -> None:
    await push(host.namespace, host.scratch, "app:1", [base().done()])
    passwords = host.scratch / "htpasswd"
    passwords.write_text(PASSWORD_FILE)
    async with registry(host.namespace, host.scratch / "registry", port=5001, password_file=passwords):
        reference = f"{ALLOWED}:5001/app:1"
        for username, password in (("", None), (USERNAME, Secret("wrong"))):
            source = ContainerSource(
                reference, 64, insecure_registry=True, username=username, password=password
            )
            status = await host.images.ensure(ImageId.new(), source, wait_s=60)
            assert status.failure is not None
            assert status.failure.code == "forbidden"
        source = ContainerSource(
            reference, 64, insecure_registry=True, username=USERNAME, password=Secret(PASSWORD)
        )
        arm_faults("agent.image.after_pull=sleep:1")
        status = await host.images.ensure(ImageId.new(), source, wait_s=0.6)
        files = [path for path in host.layout.data_dir.rglob("*") if path.is_file()]
        assert files != []
        while status.ready is None:
            assert status.failure is None
            if status.progress.phase is Phase.UNPACK:
                assert list(host.layout.data_dir.rglob("auth.json")) == []
            status = await host.images.ensure(status.image_id, source, wait_s=0.2)
    assert list(host.layout.data_dir.rglob("auth.json")) == []


@pytest.mark.parametrize("point", ["agent.image.after_pull", "agent.image.after_unpack"])
async def test_a_removal_ends_an_import(host: Host, point: str) -> None:
    await push(host.namespace, host.scratch, "app:1", [base().done()])
    arm_faults(f"{point}=sleep:60")
    image_id = ImageId.new()
    source = ContainerSource(f"{ALLOWED}:{REGISTRY_PORT}/app:1", 64, insecure_registry=True)
    await host.images.ensure(image_id, source)
    async with asyncio.timeout(30):
        while [one.progress.phase for one in host.images.list()] != [point.rpartition("_")[2]]:
            await asyncio.sleep(0.05)
        await host.images.remove(image_id)
    assert host.images.list() == []
    await host.assert_nothing_left()


@pytest.mark.parametrize("point", ["while it pulls", "agent.image.after_unpack"])
async def test_what_a_killed_agent_left_is_removed_by_the_next_one(host: Host, point: str) -> None:
    await push(host.namespace, host.scratch, "app:1", [base().done()])
    data_dir = host.scratch / "killed"
    data_dir.mkdir()
    layout = Layout(data_dir, claim_block(data_dir))
    try:
        program = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("import_program.py")),
            str(data_dir), f"{ALLOWED}:{REGISTRY_PORT}/app:1", f"{point}=kill" if "." in point else "",
        )  # fmt: skip
        async with asyncio.timeout(60):
            while "." not in point and not confined_processes(layout):
                await asyncio.sleep(0.001)
            if "." not in point:
                program.kill()
            assert await program.wait() == -signal.SIGKILL
        # What `agent/recovery` and the start of an agent do.
        confiner = CgroupConfiner(layout)
        assert len(confiner.names()) == 1
        for name in confiner.names():
            await confiner.release(name)
        await ImageFolder(layout.images).sweep()
        await remove_everything(layout.block)
        async with asyncio.timeout(10):
            while await list_everything(layout):  # a killed process is seen until it is reaped
                await asyncio.sleep(0.05)
    finally:
        await cgroups.remove(layout.cgroup_root, timeout_s=10)
        release_block(data_dir)


def test_references_are_completed_as_people_expect() -> None:
    digest = f"sha256:{'0' * 64}"
    for text, full in {
        "debian": "docker.io/library/debian:latest",
        "team/app:1": "docker.io/team/app:1",
        "reg.example:5000/a/b": "reg.example:5000/a/b:latest",
        "localhost/app:V1": "localhost/app:V1",
        f"reg.example/app:1@{digest}": f"reg.example/app@{digest}",
    }.items():
        assert str(Reference.parse(text)) == full
