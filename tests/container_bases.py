"""Base images of the Dockerfiles in `tests/data/dockerfiles`, and what their builds install from.

Nothing of it comes from a public registry of images. A base is made of Debian packages by mmdebstrap, as the machine's apt is
configured; what a Dockerfile installs with apt or pip is fetched beforehand into folders that the tests serve. All of it is kept in
`build/container-bases`, by the digest of its definition.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.container_images import REGISTRY_ADDRESS, Layer
from wrenn.linux import apt
from wrenn.linux.command import run
from wrenn.storage.images.distributions import this_distribution

_CACHE: Final = Path(__file__).parent.parent / "build" / "container-bases"
_TIMEOUT_S: Final = 900.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNNEEDED: Final = ("/usr/share/doc/*", "/usr/share/man/??/*", "/usr/share/locale/*")
PACKAGES_PORT: Final = 8080
"""Where the tests serve packages: `debian/` for apt, `simple/` for pip."""
_REPOSITORY: Final = f"deb [trusted=yes] http://{REGISTRY_ADDRESS}:{PACKAGES_PORT}/debian ./"


@dataclass(frozen=True, slots=True)
class DebianBase:
    """An image of Debian packages.

    Attributes:
        packages: beside those that a minimal Debian has.
        users: created in it.
    """

    packages: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def config(self) -> dict[str, object]:
        """The configuration of the container image."""
        variables = {"PATH": _PATH, **self.environment}
        return {"Env": [f"{name}={value}" for name, value in variables.items()], "Cmd": ["/bin/sh"]}

    async def layer(self) -> Path:
        """Return its files as a tar archive; installs them if that was not done before."""
        hooks = [f"--customize-hook=chroot $1 useradd -m {user}" for user in self.users]

        async def make(into: Path) -> None:
            await _bootstrap(self.packages, hooks, into / "layer.tar")

        return await _cached(f"{self.packages} {self.users}", make) / "layer.tar"


async def debian_packages(*packages: str) -> Path:
    """Return a folder with these Debian packages, and with all that they need and a minimal Debian lacks, as an apt repository."""

    async def make(into: Path) -> None:
        names = " ".join(packages)
        hooks = [
            f"--customize-hook=chroot $1 apt-get install -y --no-install-recommends --download-only {names}",
            f"--customize-hook=cp $1/var/cache/apt/archives/*.deb {into}",
        ]
        await _bootstrap((), hooks, Path("/dev/null"))
        (into / "Packages").write_text(
            "\n".join([await _index_entry(deb) for deb in sorted(into.glob("*.deb"))])
        )

    return await _cached(f"debs {packages}", make)


async def _index_entry(deb: Path) -> str:
    control = await run(["dpkg-deb", "--field", str(deb)], timeout_s=60)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    size_b = deb.stat().st_size
    return f"{control.decode().rstrip()}\nFilename: ./{deb.name}\nSize: {size_b}\nSHA256: {digest}\n"


async def python_packages(*requirements: str) -> Path:
    """Return a folder with these Python packages and all that they need, as an index for pip."""

    async def make(into: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            # In the environment of this process, which says where packages come from.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", scratch,
                "--python-version", "3.11", *requirements,
            )  # fmt: skip
            async with asyncio.timeout(_TIMEOUT_S):
                assert await process.wait() == 0, "pip cannot download what the Dockerfiles install"
            for wheel in Path(scratch).iterdir():
                project = into / wheel.name.partition("-")[0].lower().replace("_", "-").replace(".", "-")
                project.mkdir(exist_ok=True)
                shutil.move(wheel, project)

    return await _cached(f"wheels {requirements}", make)


async def _cached(definition: str, make: Callable[[Path], Awaitable[None]]) -> Path:
    """Return the folder of a definition; made first if there is none. A folder that was not finished is never returned."""
    distribution = this_distribution()
    text = json.dumps([asdict(distribution), definition, _UNNEEDED])
    folder = _CACHE / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not folder.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=_CACHE, prefix=".draft-"))
        draft.chmod(0o755)
        try:
            await make(draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


async def _bootstrap(packages: tuple[str, ...], hooks: list[str], target: Path) -> None:
    distribution = this_distribution()
    lines = await apt.source_lines(distribution.origin, keyring=distribution.keyring)
    with tempfile.TemporaryDirectory() as scratch:
        sources = Path(scratch) / "sources.list"
        sources.write_text("".join(f"{line}\n" for line in lines))
        await run(
            [
                # Its own mount and process namespaces: however this ends, no mount and no process is left.
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                "mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", "--quiet",
                *([f"--include={','.join(packages)}"] if packages else []),
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in _UNNEEDED),
                *(f"--aptopt={option}" for option in await apt.acquire_options()),
                *hooks,
                f"--customize-hook=echo '{_REPOSITORY}' > $1/etc/apt/sources.list",
                "--customize-hook=rm -f $1/etc/apt/sources.list.d/*",
                distribution.suite, str(target), str(sources),
            ],
            timeout_s=_TIMEOUT_S,
        )  # fmt: skip


_APPLETS: Final = (
    "[", "busybox", "cat", "chmod", "chown", "cp", "echo", "env", "grep", "httpd", "id", "ls", "mkdir", "mv", "rm", "sed", "sh",
    "sleep", "sync", "tar", "test", "touch", "wget",
)  # fmt: skip
_ADDUSER: Final = b"""#!/bin/sh
# Debian's busybox has no adduser: this one knows the options -D, -H, and -s with a shell.
while [ $# -gt 1 ]; do case $1 in -s) shell=$2; shift ;; esac; shift; done
id=$((1000 + $(grep -c : /etc/passwd)))
echo "$1:x:$id:$id::/home/$1:${shell:-/bin/sh}" >> /etc/passwd
echo "$1:x:$id:" >> /etc/group
"""
_MUSL_PROGRAM: Final = """#include <stdio.h>
int main(void) { puts("musl answers"); return 0; }
"""
_SERVER: Final = Path(__file__).parent / "data" / "static_server.c"


async def compiled(source: str | Path, into: Path, *, compiler: str = "gcc", static: bool = True) -> bytes:
    """Compile a program in C; returns it."""
    path = into / "program.c" if isinstance(source, str) else source
    if isinstance(source, str):
        path.write_text(source)
    result = into / "program"
    options = ["-static"] if static else []
    await run([compiler, "-O1", "-s", *options, "-o", str(result), str(path)], timeout_s=120)
    return result.read_bytes()


async def alpine_layer(scratch: Path) -> bytes:
    """Return an image like Alpine's, of Debian's busybox and musl: no glibc, no package manager, no bash.

    `/usr/bin/hello-musl` is linked with musl dynamically.
    """
    layer = Layer()
    for folder in ("bin", "etc", "lib", "root", "sbin", "usr", "usr/bin", "usr/sbin", "srv"):
        layer.folder(folder)
    layer.add("bin/busybox", Path("/usr/bin/busybox").read_bytes(), mode=0o755)
    for name in _APPLETS:
        if name != "busybox":
            layer.add(f"bin/{name}", kind=tarfile.SYMTYPE, target="/bin/busybox")
    layer.add("usr/sbin/adduser", _ADDUSER, mode=0o755)
    libc = Path("/lib/x86_64-linux-musl/libc.so").read_bytes()
    layer.add("lib/ld-musl-x86_64.so.1", libc, mode=0o755)
    program = await compiled(_MUSL_PROGRAM, scratch, compiler="musl-gcc", static=False)
    layer.add("usr/bin/hello-musl", program, mode=0o755)
    layer.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
    layer.add("etc/group", b"root:x:0:\nnobody:x:65534:\n")
    layer.add("etc/os-release", b'ID=alpine\nPRETTY_NAME="like Alpine"\n')
    return layer.done()


def distroless_layer() -> bytes:
    """Return an image without any program: users, certificates and time zones would be in it."""
    layer = Layer()
    for folder in ("etc", "home", "home/nonroot", "tmp", "var"):
        layer.folder(folder)
    users = (
        b"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
    )
    layer.add("etc/passwd", users)
    layer.add("etc/group", b"root:x:0:\nnonroot:x:65532:\n")
    layer.add("etc/nsswitch.conf", b"hosts: files dns\n")
    return layer.done()


async def static_server(scratch: Path) -> bytes:
    """Return a static web server, as one writes it for an image without libraries."""
    return await compiled(_SERVER, scratch)
