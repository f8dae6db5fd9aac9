"""The guides on container images and object storage, as written: with a registry and an S3 server. Costs about 80 s."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import httpx2
import pytest

from tests.container_bases import alpine_layer
from tests.container_images import (
    PASSWORD,
    PASSWORD_FILE,
    REGISTRY_NAMESPACE,
    REGISTRY_PORT,
    Layer,
    push,
    registry,
)
from tests.docs_examples import ROOT, examples
from tests.s3_server import BUCKET, s3_server
from tests.vm.platform import PARTS, running_platform
from tests.vm.test_docs_examples import NEEDS_REGISTRY, run
from wrenn.testing.server import free_port

STORAGE_PAGE = "docs/howto/use-object-storage.md"
TIMEOUT_S = 150


def objects_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


async def built_by_login(api: httpx2.AsyncClient, image: str, password: str) -> str:
    """Build a template as e2b's SDK does, with a login to the registry. Return why it failed; empty: it did not."""
    made = (await api.post("/e2b/v3/templates", json={"name": "by-login"})).json()
    login = {"type": "registry", "username": "robot", "password": password}
    path = f"/builds/{made['buildID']}"
    steps = [{"type": "ENV", "args": ["A", "1"]}]
    answer = await api.post(
        f"/e2b/v2/templates/by-login{path}",
        json={"fromImage": image, "fromImageRegistry": login, "steps": steps},
    )
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            status = (await api.get(f"/e2b/templates/by-login{path}/status")).json()
            if status["status"] in ("ready", "error"):
                return status.get("reason", {}).get("message", "") if status["status"] == "error" else ""
            await asyncio.sleep(0.2)


@pytest.mark.timeout(400)
async def test_images_are_imported_and_stored_in_object_storage_as_written(
    data_dir: Path, images_dir: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, private, metrics = f"{served}:{REGISTRY_PORT}", f"{served}:5001", f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("REGISTRY_PASSWORD", PASSWORD)
    for name in ("alpine:3.20", "app:1"):
        await push(REGISTRY_NAMESPACE, tmp_path, name, [await alpine_layer(tmp_path)])
    # Alpine has no `useradd`, with which a build makes the user of e2b's builder.
    users = Layer().add("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    await push(REGISTRY_NAMESPACE, tmp_path, "app:2", [await alpine_layer(tmp_path), users.done()])
    passwords = tmp_path / "htpasswd"
    passwords.write_text(PASSWORD_FILE)
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        documented = re.findall(r"\b(?:WRENN|AWS)_[A-Z_]+", (ROOT / STORAGE_PAGE).read_text())
        assert set(server.environment) <= set(documented)
        async with (
            registry(REGISTRY_NAMESPACE, tmp_path / "registry", port=5001, password_file=passwords),
            running_platform(
                data_dir,
                images_dir,
                private_networks=f"{served}/32",
                insecure_registries=f"{public},{private}",
                control_environment={**server.environment, "WRENN_METRICS_LISTEN": metrics},
            ) as platform,
        ):
            replaced = {
                "private.example.com": private,
                "registry.example.com": public,
                "localhost:8001": metrics,
            }
            # Of other tests, whose platform has the same data folder.
            in_folder = objects_in(data_dir / "store")
            async with platform.client() as api:
                # A create waits until the host is known at its new address; a build tries three times.
                made = await api.post("/v1/sandboxes", json={})
                assert made.status_code == 201, made.text
            for example in (e for e in examples() if e.page in NEEDS_REGISTRY):
                folder = tmp_path / Path(example.page).stem
                folder.mkdir()
                await run(platform, example, folder, TIMEOUT_S, replaced)
            async with platform.client() as api:
                # A login that comes with a build of e2b's template builder, when the team has none.
                assert (await api.delete(f"/v1/registry-credentials/{private}")).status_code == 204
                assert await built_by_login(api, f"{private}/app:2", "wrong") != ""
                assert await built_by_login(api, f"{private}/app:2", PASSWORD) == ""
                assert (await api.delete("/v1/templates/by-login")).status_code == 204
            # Neither password nor credentials are in a log or a file of the host.
            for part in PARTS:
                assert PASSWORD not in platform.log(part, 10**7)
            assert list(data_dir.rglob("auth.json")) == []
            objects = tmp_path / "s3" / "data" / BUCKET / "wrenn"
            assert list(objects.glob("*/images/*/*.json"))
            assert objects_in(data_dir / "store") == in_folder

            # Another store with the same objects under the same keys.
            new_store = tmp_path / "store"
            shutil.copytree(objects, new_store)
            await platform.stop("control")
            platform.control_environment = {"WRENN_STORE": f"file://{new_store}"}
            platform.start("control")
            await platform.wait_ready()
            async with platform.client() as api:
                # In another size than before, so that it is made from the image, which this host lacks now.
                for image in (data_dir / "images").glob("img-*"):
                    shutil.rmtree(image)
                made = await api.post("/v1/sandboxes", json={"template": "alpine", "memory_mb": 320})
                assert made.status_code == 201, made.text
                await platform.remove_sandboxes()
                for name in ("alpine", "app", "site"):
                    assert (await api.delete(f"/v1/templates/{name}")).status_code == 204
