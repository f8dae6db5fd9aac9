"""The platform that the SDK is held against, and both clients behind one asynchronous face."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import socket
import stat
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvicorn
from sdk_clients import Platform
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "wrn_test"


def refuse(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


class Box:
    def __init__(self, root: Path, body: dict[str, object], envs: dict[str, str]) -> None:
        self.root = root
        self.body = body
        self.envs = envs
        self.processes: dict[int, tuple[str, list[str], asyncio.subprocess.Process]] = {}


class Contract:
    """The documented REST contract over plain processes and folders of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boxes: dict[str, Box] = {}
        self.keys: dict[str, str] = {}
        s = "/v1/sandboxes"
        self.app = Starlette(
            routes=[
                Route(s, self.create, methods=["POST"]),
                Route(s, self.list, methods=["GET"]),
                Route(s + "/{id}", self.get, methods=["GET"]),
                Route(s + "/{id}", self.delete, methods=["DELETE"]),
                Route(s + "/{id}/ping", self.ping, methods=["POST"]),
                Route(s + "/{id}/exec", self.exec, methods=["POST"]),
                Route(s + "/{id}/processes", self.ps, methods=["GET"]),
                Route(s + "/{id}/processes/{selector}", self.kill, methods=["DELETE"]),
                Route(s + "/{id}/files/{verb:path}", self.files, methods=["POST"]),
            ]
        )

    async def create(self, request: Request) -> Response:
        if request.headers.get("x-api-key") != KEY:
            return refuse(401, "unauthorized", "Unknown API key.")
        body = await request.json()
        if body.get("template", "minimal") != "minimal":
            return refuse(404, "not_found", "No template of this name.")
        key = request.headers["idempotency-key"]
        if key not in self.keys:
            sandbox_id = "cl-" + uuid.uuid4().hex[:25]
            self.keys[key] = sandbox_id
            root = self.root / sandbox_id
            root.mkdir()
            fields: dict[str, object] = {
                "id": sandbox_id, "status": "running", "template": "minimal", "vcpus": body.get("vcpus", 1),
                "memory_mb": body.get("memory_mb", 512), "timeout_sec": body.get("timeout_sec", 0),
                "created_at": "2026-01-01T00:00:00Z", "last_updated": "2026-01-01T00:00:00Z", "new_field": 1,
            }  # fmt: skip
            self.boxes[sandbox_id] = Box(root, fields, body.get("envs", {}))
        return JSONResponse(self.boxes[self.keys[key]].body, 201)

    async def list(self, request: Request) -> Response:
        return JSONResponse([b.body for b in self.boxes.values() if b.body["status"] == "running"])

    async def get(self, request: Request) -> Response:
        box = self.boxes.get(request.path_params["id"])
        return JSONResponse(box.body) if box else refuse(404, "not_found", "No such sandbox.")

    async def delete(self, request: Request) -> Response:
        box = self.boxes.get(request.path_params["id"])
        if box is None:
            return refuse(404, "not_found", "No such sandbox.")
        box.body["status"] = "stopped"
        return Response(status_code=204)

    async def close(self) -> None:
        """End what still runs in the background."""
        for box in self.boxes.values():
            for pid, (_, _, process) in box.processes.items():
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                await process.wait()

    async def ping(self, request: Request) -> Response:
        box = self.boxes[request.path_params["id"]]
        if box.body["status"] != "running":
            return refuse(409, "invalid_state", "The sandbox is not running.")
        return Response(status_code=204)

    async def exec(self, request: Request) -> Response:
        box = self.boxes[request.path_params["id"]]
        body = await request.json()
        envs = {"PATH": os.environ["PATH"], **box.envs, **body.get("envs", {})}
        output = asyncio.subprocess.DEVNULL if body.get("background") else asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                body["cmd"], *body.get("args", []), env=envs, cwd=body.get("cwd", box.root),
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            return JSONResponse(
                {"stdout": "", "stderr": "not found", "encoding": "utf-8", "exit_code": 127, "duration_ms": 0}
            )
        if body.get("background"):
            tag = body.get("tag") or "proc-" + uuid.uuid4().hex[:8]
            box.processes[process.pid] = (tag, [body["cmd"], *body.get("args", [])], process)
            return JSONResponse(
                {"sandbox_id": request.path_params["id"], "cmd": body["cmd"], "pid": process.pid, "tag": tag},
                202,
            )
        try:
            async with asyncio.timeout(body["timeout_sec"]):
                out, err = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
            return refuse(504, "deadline_exceeded", "The command did not end in time.")
        try:
            texts, encoding = (out.decode(), err.decode()), "utf-8"
        except UnicodeDecodeError:
            texts, encoding = (base64.b64encode(out).decode(), base64.b64encode(err).decode()), "base64"
        return JSONResponse({
            "stdout": texts[0], "stderr": texts[1], "encoding": encoding, "exit_code": process.returncode, "duration_ms": 1,
        })  # fmt: skip

    async def ps(self, request: Request) -> Response:
        box = self.boxes[request.path_params["id"]]
        return JSONResponse({"processes": [
            {"pid": pid, "tag": tag, "cmd": cmd[0], "args": cmd[1:]}
            for pid, (tag, cmd, process) in box.processes.items() if process.returncode is None
        ]})  # fmt: skip

    async def kill(self, request: Request) -> Response:
        box, selector = self.boxes[request.path_params["id"]], request.path_params["selector"]
        for pid, (tag, _, process) in box.processes.items():
            if selector in (str(pid), tag) and process.returncode is None:
                os.killpg(pid, getattr(signal, request.query_params["signal"]))
                await process.communicate()
                return Response(status_code=204)
        return refuse(404, "not_found", "No such process.")

    async def files(self, request: Request) -> Response:
        box, verb = self.boxes[request.path_params["id"]], request.path_params["verb"]
        if verb.endswith("write"):
            async with request.form(max_part_size=1 << 30) as form:
                target = box.root / str(form["path"]).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(await form["file"].read())  # type: ignore[union-attr]
            return Response(status_code=204)
        body = await request.json()
        path = box.root / body.get("path", body.get("source", "")).lstrip("/")
        if verb == "mkdir":
            if path.is_dir():
                return refuse(409, "conflict", "The directory exists.")
            path.mkdir(parents=True)
            return JSONResponse({"entry": self.entry(box, path)})
        if verb == "remove":
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            return Response(status_code=204)
        if not path.exists():
            return refuse(404, "not_found", f"No such file: {body.get('path')}")
        if verb.endswith("read"):

            async def chunks() -> AsyncIterator[bytes]:
                with path.open("rb") as file:
                    while chunk := file.read(1 << 16):
                        yield chunk

            return StreamingResponse(chunks(), media_type="application/octet-stream")
        if verb == "stat":
            return JSONResponse({"entry": self.entry(box, path)})
        if verb == "move":
            return JSONResponse(
                {"entry": self.entry(box, path.rename(box.root / body["destination"].lstrip("/")))}
            )
        pattern = "*" if body["depth"] == 1 else "**/*"
        return JSONResponse({"entries": [self.entry(box, p) for p in sorted(path.glob(pattern))]})

    def entry(self, box: Box, path: Path) -> dict[str, object]:
        facts = path.lstat()
        return {
            "name": path.name, "path": "/" + str(path.relative_to(box.root)), "type": "directory" if path.is_dir() else "file",
            "size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode), "permissions": stat.filemode(facts.st_mode),
            "owner": "root", "group": "root", "modified_at": int(facts.st_mtime),
        }  # fmt: skip


@pytest.fixture
async def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Platform]:
    """A live platform, named by the environment too.

    `WRENN_CONTRACT_URL` and `WRENN_CONTRACT_KEY` hold the suite against a real one; else it is `Contract` of this file.
    """
    async with AsyncExitStack() as stack:
        url, key = os.environ.get("WRENN_CONTRACT_URL"), os.environ.get("WRENN_CONTRACT_KEY", KEY)
        if url is None:
            contract = Contract(tmp_path)
            stack.push_async_callback(contract.close)
            url = await stack.enter_async_context(served(contract.app))
        monkeypatch.setenv("WRENN_BASE_URL", url)
        monkeypatch.setenv("WRENN_API_KEY", key)
        yield Platform(url, key)


@asynccontextmanager
async def served(app: Starlette) -> AsyncGenerator[str]:
    """Serve an application on a free port; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving
