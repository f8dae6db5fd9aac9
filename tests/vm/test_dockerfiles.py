"""Dockerfiles as people write them: each is built, and what its program answers is asked of a sandbox.

The two without a distribution cost about 40 s together. The others take minutes under emulation, so they are marked `packages`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.container_bases import (
    PACKAGES_PORT,
    DebianBase,
    alpine_layer,
    debian_packages,
    distroless_layer,
    python_packages,
    static_server,
)
from tests.container_images import REGISTRY_ADDRESS, REGISTRY_NAMESPACE, REGISTRY_PORT, push
from tests.vm.platform import Platform, running_platform

FOLDERS = Path(__file__).parent.parent / "data" / "dockerfiles"
REGISTRY = f"{REGISTRY_ADDRESS}:{REGISTRY_PORT}"
INDEX = f"http://{REGISTRY_ADDRESS}:{PACKAGES_PORT}/simple"
BUILD_TIMEOUT_S = 2400.0
ANSWER_TIMEOUT_S = 240.0

pytestmark = [pytest.mark.vm, pytest.mark.root]


@dataclass(frozen=True, slots=True)
class Case:
    """One Dockerfile of `tests/data/dockerfiles`.

    Attributes:
        image: what its FROM names, without the registry.
        base: what that image is made of here.
        answer: a part of what its program answers.
        installs: packages with apt or pip, which the test serves.
        path, port: where it is asked by HTTP. Port 0: `command` is run instead, in the sandbox.
    """

    folder: str
    image: str
    base: DebianBase
    answer: str
    port: int = 0
    path: str = "/"
    command: str = ""
    memory_mb: int = 512
    disk_size_mb: int = 5120
    build_args: dict[str, str] = field(default_factory=dict[str, str])
    installs: bool = False


# What an organisation's own image says that has an index of its own.
PYTHON = DebianBase(
    ("python3", "python3-pip", "python3-venv"), environment={"PIP_TRUSTED_HOST": REGISTRY_ADDRESS}
)
APT_PACKAGES = ("chromium", "fonts-liberation", "postgresql-15", "xvfb")
PIP_PACKAGES = ("bottle==0.13.4", "notebook", "numpy", "scikit-learn")
CASES = [
    Case(
        "python-pip", "library/python:3.11-slim", PYTHON, "python answers", 8000,
        build_args={"BASE": f"{REGISTRY}/library/python:3.11-slim", "PIP_INDEX_URL": INDEX},
        installs=True,
    ),
    Case("node", "library/node:18-bookworm-slim", DebianBase(("nodejs",), ("node",)), "node answers", 3000),
    Case(
        "go", "library/golang:1.22-bookworm", DebianBase(("golang-go",)),
        "go answers", 8080, memory_mb=1024,
    ),
    Case(
        "rust", "library/rust:1.75-slim-bookworm", DebianBase(("cargo", "gcc", "libc6-dev", "rustc")),
        "rust answers", 7000, memory_mb=1024,
    ),
    Case(
        "java", "library/eclipse-temurin:17-jdk", DebianBase(("openjdk-17-jdk-headless",)),
        "java answers", 8081, memory_mb=1024,
    ),
    Case(
        "postgresql", "library/debian:12-slim", DebianBase(), "40 + 2 = 42",
        command="psql -h 127.0.0.1 -U postgres -Atc \"SELECT '40 + 2 = ' || 40 + 2\"", installs=True,
    ),
    Case(
        "chromium", "library/debian:12-slim", DebianBase(), "webSocketDebuggerUrl", 9222, "/json/version",
        memory_mb=2048, installs=True,
    ),
    Case(
        "notebook", "library/python:3.11-bookworm", PYTHON, '"version"', 8888, "/api",
        memory_mb=2048, build_args={"PIP_INDEX_URL": INDEX}, installs=True,
    ),
]  # fmt: skip
TWO_STAGES = f"""\
FROM {REGISTRY}/library/alpine:3.20 AS build
COPY server /out/server
RUN chmod 755 /out/server && chown -R 65532:65532 /out && echo 'two stages' > /out/note

FROM scratch AS app
COPY --from=build /out/server /out/note /srv/
ENTRYPOINT ["/srv/server"]

FROM app AS refused
RUN ["/srv/no-such-program"]
"""


@dataclass(frozen=True, slots=True)
class Builder:
    """A platform whose sandboxes reach a registry, and an index of packages."""

    platform: Platform
    scratch: Path

    async def push(self, image: str, layer: bytes, config: dict[str, object]) -> str:
        """Push an image of one layer; returns its digest."""
        return await push(REGISTRY_NAMESPACE, self.scratch, image, [layer], config)

    def context(self, folder: str, **replaced: str) -> Path:
        """Return a copy of a folder whose FROM names the registry here; each text of `replaced` is put in."""
        copy = self.scratch / folder
        shutil.copytree(FOLDERS / folder, copy)
        dockerfile = copy / "Dockerfile"
        text = dockerfile.read_text()
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        library = rf"\g<1>{REGISTRY}/library/"
        text = re.sub(r"(?m)^(FROM )(?=[a-z-]+:)", library, text)
        dockerfile.write_text(re.sub(r"(?m)^(FROM )(?=gcr\.io/)", rf"\g<1>{REGISTRY}/", text))
        return copy

    async def wrenn(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command; returns its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("wrenn")),
            *arguments,
            env={
                "PATH": os.environ["PATH"],
                "WRENN_BASE_URL": self.platform.base_url,
                "WRENN_API_KEY": self.platform.key,
                "TERM": "dumb",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def build(self, context: Path, case: Case, *options: str) -> None:
        """Build the template that has the name of the case."""
        values = [f"--build-arg={name}={value}" for name, value in case.build_args.items()]
        size = [f"--memory-mb={case.memory_mb}", f"--disk-size-mb={case.disk_size_mb}"]
        begun = time.monotonic()
        code, out, err = await self.wrenn("build", str(context), "-t", case.folder, *size, *values, *options)
        assert (code, out) == (0, f"{case.folder}\n"), err[-6000:]
        print(f"{case.folder}: built in {time.monotonic() - begun:.0f} s\n{err}")

    async def check_answer(self, case: Case) -> None:
        """Create a sandbox and ask its program."""
        async with self.platform.client(timeout_s=ANSWER_TIMEOUT_S) as api:
            begun = time.monotonic()
            made = await api.post("/v1/sandboxes", json={"template": case.folder})
            assert made.status_code == 201, made.text
            sandbox_id = made.json()["id"]
            try:
                if case.port:
                    answer = await _asked(api, sandbox_id, case)
                else:
                    answer = await executed(api, sandbox_id, "/bin/sh", "-c", case.command)
            finally:
                assert (await api.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
            assert case.answer in answer
            print(f"{case.folder}: created and asked in {time.monotonic() - begun:.1f} s")


async def _asked(api: httpx2.AsyncClient, sandbox_id: str, case: Case) -> str:
    """Ask the program by HTTP until it answers: it may have been started just before its memory was saved."""
    headers = {"X-Wrenn-Sandbox": sandbox_id, "X-Wrenn-Port": str(case.port)}
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        while (answer := await api.get(case.path, headers=headers)).status_code != 200:
            await asyncio.sleep(0.5)
    return answer.text


async def executed(api: httpx2.AsyncClient, sandbox_id: str, *argv: str) -> str:
    """Run a program in a sandbox and return what it wrote."""
    body = {"cmd": argv[0], "args": list(argv[1:]), "timeout_sec": int(ANSWER_TIMEOUT_S)}
    ran = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json=body)
    assert ran.status_code == 200, ran.text
    assert ran.json()["exit_code"] == 0, ran.text
    return ran.json()["stdout"]


@pytest.fixture
async def builder(data_dir: Path, images_dir: Path, served: str, tmp_path: Path) -> AsyncGenerator[Builder]:
    """A platform of the test."""
    async with running_platform(
        data_dir, images_dir, private_networks=f"{served}/32", insecure_registries=REGISTRY
    ) as platform:
        yield Builder(platform, tmp_path)
        async with platform.client() as api:
            for template in (await api.get("/v1/templates")).json():
                if template["name"] != "minimal":
                    await api.delete(f"/v1/templates/{template['name']}")


@pytest.mark.timeout(400)
async def test_images_without_a_distribution_are_built_upon(builder: Builder) -> None:
    """One like Alpine (musl, busybox), one without any program, and an empty one that takes its program from a stage on the first."""
    alpine = Case("alpine", "", DebianBase(), "alpine answers", 8080, "/index.html", memory_mb=256)
    digest = await builder.push("library/alpine:3.20", await alpine_layer(builder.scratch), {})
    former = re.search("sha256:[0-9a-f]+", (FOLDERS / "alpine" / "Dockerfile").read_text())
    assert former is not None
    await builder.build(builder.context("alpine", **{former[0]: digest}), alpine)
    await builder.check_answer(alpine)

    distroless = Case("distroless", "", DebianBase(), "distroless answers", 8080, memory_mb=256)
    image = "gcr.io/distroless/static-debian12:latest"
    # Images of others need not say where programs are found.
    await builder.push(image, distroless_layer(), {"User": "nonroot"})
    context = builder.context("distroless")
    server = await static_server(builder.scratch)
    (context / "server").write_bytes(server)
    await builder.build(context, distroless)
    await builder.check_answer(distroless)

    (context / "Dockerfile").write_text(TWO_STAGES)
    (context / ".dockerignore").unlink(missing_ok=True)
    two_stages = Case("two-stages", "", DebianBase(), "distroless answers", 8080, memory_mb=256)
    # Nothing but what it copies is in the image, and the stage after it is not built.
    await builder.build(context, two_stages, "--target", "app")
    await builder.check_answer(two_stages)

    async with builder.platform.client() as api:
        sandbox_id = (await api.post("/v1/sandboxes", json={"template": "two-stages"})).json()["id"]
        files = f"/v1/sandboxes/{sandbox_id}/files"
        listed = (await api.post(f"{files}/list", json={"path": "/srv"})).json()
        found = {entry["name"]: (entry["permissions"], entry["owner"]) for entry in listed["entries"]}
        assert found["server"][0].endswith("rwxr-xr-x"), found
        assert "note" in found
        assert (await api.post(f"{files}/list", json={"path": "/out"})).status_code == 404
        listed = (await api.post(f"{files}/list", json={"path": "/"})).json()
        there = {entry["name"] for entry in listed["entries"]}
        assert "srv" in there
        assert not there & {"bin", "usr", "out"}, "the image is empty before its first COPY"
        assert (await api.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
        sandbox_id = (await api.post("/v1/sandboxes", json={"template": "alpine"})).json()["id"]
        assert await executed(api, sandbox_id, "hello-musl") == "musl answers\n"


@pytest.mark.packages
@pytest.mark.timeout(BUILD_TIMEOUT_S + 600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder)
async def test_a_program_is_built_and_answers(builder: Builder, case: Case) -> None:
    layer = (await case.base.layer()).read_bytes()
    await builder.push(case.image, layer, case.base.config)
    if case.folder == "go":
        # Of its second stage.
        await builder.push(
            "gcr.io/distroless/static-debian12:nonroot", distroless_layer(), {"User": "nonroot"}
        )
    async with _packages(builder.scratch) if case.installs else nullcontext():
        await builder.build(builder.context(case.folder), case)
    await builder.check_answer(case)


@asynccontextmanager
async def _packages(scratch: Path) -> AsyncGenerator[None]:
    """Serve the packages that the Dockerfiles install."""
    folder = scratch / "packages"
    folder.mkdir()
    (folder / "debian").symlink_to(await debian_packages(*APT_PACKAGES))
    (folder / "simple").symlink_to(await python_packages(*PIP_PACKAGES))
    server = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", REGISTRY_NAMESPACE,
        sys.executable, "-m", "http.server", str(PACKAGES_PORT), "--directory", str(folder),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        server.kill()
        await server.wait()
