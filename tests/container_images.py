"""Container images made by hand, and a registry in a network namespace that serves them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from wrenn.linux.command import CommandError, run
from wrenn.linux.namespaces import create_namespace, remove_namespace
from wrenn.linux.netlink import AddAddress, AddDefaultRoute, AddVeth, BringUp, send_all

REGISTRY_PORT = 5000
REGISTRY_ADDRESS = "10.211.77.2"
REGISTRY_NAMESPACE = f"wrenn-test-reg-{os.getpid()}"
"""Where the registry of the VM tests runs."""
USERNAME, PASSWORD = "robot", "s3cret-of-the-registry"
"""Of registries that ask for them."""
PASSWORD_FILE = f"{USERNAME}:$2b$04$4lBfTY0J2f0.pBoh37DUQ.ko7ldGVQttYmJ9tZfCGpA8P3zqb2Gki\n"
_DEADLINE_S = 20.0
_PUSH_DEADLINE_S = 300.0


class Layer:
    """One layer, entry by entry."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def add(
        self,
        name: str,
        content: bytes = b"",
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        target: str = "",
    ) -> Layer:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname, info.size = kind, mode, target, len(content)
        info.uid, info.gid = owner
        info.mtime = 1_600_000_000
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def folder(self, name: str, mode: int = 0o755) -> Layer:
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode)

    def done(self) -> bytes:
        self._tar.close()
        return self._file.getvalue()


def write_layout(folder: Path, layers: Sequence[bytes], config: Mapping[str, object] | None = None) -> str:
    """Write an OCI layout with one image, named `image`. Returns its digest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def stored(content: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }

    diffs = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [{"created_by": "test"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": stored(json.dumps(image).encode(), "config.v1+json"),
        "layers": [stored(gzip.compress(layer, 1), "layer.v1.tar+gzip") for layer in layers],
    }
    top = stored(json.dumps(manifest).encode(), "manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "image"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return str(top["digest"])


async def push(
    namespace: str,
    scratch: Path,
    name: str,
    layers: Sequence[bytes],
    config: Mapping[str, object] | None = None,
) -> str:
    """Push an image to the registry in the namespace. Returns its digest."""
    layout = scratch / name.replace("/", "-").replace(":", "-")
    digest = write_layout(layout, layers, config)
    await run(
        [
            "ip", "netns", "exec", namespace, "skopeo", "--insecure-policy", "copy", "--quiet",
            "--dest-tls-verify=false", f"oci:{layout}:image", f"docker://127.0.0.1:{REGISTRY_PORT}/{name}",
        ],
        timeout_s=_PUSH_DEADLINE_S,
    )  # fmt: skip
    return digest


@asynccontextmanager
async def registry(
    namespace: str, folder: Path, *, port: int = REGISTRY_PORT, password_file: Path | None = None
) -> AsyncGenerator[None]:
    """A registry in the namespace, on all of its addresses. With a password file (htpasswd) it asks for a password."""
    lines = [
        "version: 0.1",
        f"storage: {{filesystem: {{rootdirectory: {folder}}}}}",
        f"http: {{addr: '0.0.0.0:{port}'}}",
        "log: {level: error, accesslog: {disabled: true}}",
    ]
    if password_file is not None:
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {password_file}}}}}")
    folder.mkdir(exist_ok=True)
    settings = folder.with_name(f"{folder.name}-{port}.yml")
    settings.write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", namespace, "docker-registry", "serve", str(settings),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_DEADLINE_S):
            probe = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
            while True:
                try:
                    await run(["ip", "netns", "exec", namespace, "bash", "-c", probe], timeout_s=5)
                    break
                except Exception:  # noqa: BLE001 - not yet
                    await asyncio.sleep(0.05)
        yield
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def registry_beside_host(folder: Path) -> AsyncGenerator[str]:
    """A registry in `REGISTRY_NAMESPACE`, which is connected with the host; yields its address."""
    namespace, host_link, address = REGISTRY_NAMESPACE, f"wtreg{os.getpid() % 10**6}", REGISTRY_ADDRESS
    await remove_namespace(namespace)
    await create_namespace(namespace)
    try:
        await send_all([AddVeth(host_link, "02:fd:00:00:01:02", "eth0", "02:fd:00:00:01:01", namespace)])
        await send_all(
            [
                BringUp("lo"),
                BringUp("eth0"),
                AddAddress("eth0", address, 30),
                AddDefaultRoute("eth0", "10.211.77.1", address),
            ],
            namespace=namespace,
        )
        await run(["ip", "address", "add", "10.211.77.1/30", "dev", host_link], timeout_s=5)
        await send_all([BringUp(host_link)])
        async with registry(namespace, folder):
            yield address
    finally:
        await remove_namespace(namespace)
        # Not before everything in the namespace has ended: the next one makes a link of this name.
        with suppress(CommandError):
            await run(["ip", "link", "delete", host_link], timeout_s=5)
