"""The documented REST contract over plain processes and folders: what the SDK and the command line are held against."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import stat
import tarfile
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from wrenn.base.file_names import name_to_text, text_to_name
from wrenn.testing.local_processes import resolved

KEY = "wrn_test"


def refuse(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def now(later_s: int = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Refused(Exception):
    """An answer other than a success."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = refuse(status, code, message)


class Box:
    def __init__(self, root: Path, body: dict[str, object], envs: dict[str, str]) -> None:
        self.root = root
        self.body = body
        self.envs = envs
        self.processes: dict[int, tuple[str, list[str], asyncio.subprocess.Process]] = {}


@dataclass
class Saved:
    root: Path
    body: dict[str, object]
    envs: dict[str, str]


class Contract:
    """The documented REST contract over plain processes and folders of this machine.

    A paused sandbox keeps its processes stopped; copies have the files only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boxes: dict[str, Box] = {}
        self.keys: dict[str, str] = {}
        self.templates: dict[str, Saved] = {}
        s, t = "/v1/sandboxes", "/v1/snapshots"
        self.app = Starlette(
            routes=[
                Route(s, self.create, methods=["POST"]),
                Route(s, self.list, methods=["GET"]),
                Route(s + "/{id}", self.get, methods=["GET"]),
                Route(s + "/{id}", self.delete, methods=["DELETE"]),
                Route(s + "/{id}/ping", self.ping, methods=["POST"]),
                Route(s + "/{id}/pause", self.pause, methods=["POST"]),
                Route(s + "/{id}/resume", self.resume, methods=["POST"]),
                Route(s + "/{id}/timeout", self.timeout, methods=["PATCH"]),
                Route(s + "/{id}/fork", self.fork, methods=["POST"]),
                Route(t, self.save, methods=["POST"]),
                Route(t, self.list_templates, methods=["GET"]),
                Route(t + "/{name}", self.delete_template, methods=["DELETE"]),
                Route(s + "/{id}/exec", self.exec, methods=["POST"]),
                WebSocketRoute(s + "/{id}/exec/stream", self.follow),
                Route(s + "/{id}/processes", self.ps, methods=["GET"]),
                Route(s + "/{id}/processes/{selector}", self.kill, methods=["DELETE"]),
                Route(s + "/{id}/files/watch", self.watch, methods=["GET"]),
                Route(s + "/{id}/files/tar/write", self.unpack, methods=["POST"]),
                Route(s + "/{id}/files/tar/read", self.pack, methods=["POST"]),
                Route(s + "/{id}/files/{verb:path}", self.files, methods=["POST"]),
            ],
            exception_handlers={Refused: lambda _, error: cast(Refused, error).answer},
        )

    async def create(self, request: Request) -> Response:
        if request.headers.get("x-api-key") != KEY:
            return refuse(401, "unauthorized", "Unknown API key.")
        body = await request.json()
        template = body.get("template", "minimal")
        if template != "minimal" and template not in self.templates:
            return refuse(404, "not_found", "No template of this name.")
        if body.get("on_expiry", "pause") not in ("pause", "kill"):
            return refuse(400, "invalid_request", "on_expiry: must be pause or kill.")
        key = request.headers["idempotency-key"]
        if key not in self.keys:
            limits = {
                name: body[name] for name in ("timeout_sec", "on_expiry", "auto_resume") if name in body
            }
            if lifetime_sec := body.get("lifetime_sec", 0):
                limits["expires_at"] = now(lifetime_sec)
            shape = {
                "template": template,
                "vcpus": body.get("vcpus", 1),
                "memory_mb": body.get("memory_mb", 512),
            }
            saved = self.templates.get(template)
            if saved:
                shape |= {name: saved.body[name] for name in ("vcpus", "memory_mb")}
            box = self.add(shape | limits, {**(saved.envs if saved else {}), **body.get("envs", {})}, saved)
            self.keys[key] = str(box.body["id"])
        return JSONResponse(self.boxes[self.keys[key]].body, 201)

    def add(self, fields: dict[str, object], envs: dict[str, str], origin: Saved | Box | None) -> Box:
        sandbox_id = "cl-" + uuid.uuid4().hex[:25]
        root = self.root / sandbox_id
        if origin is None:
            root.mkdir()
        else:
            shutil.copytree(origin.root, root)
        usual: dict[str, object] = {
            "timeout_sec": 0, "on_expiry": "pause", "auto_resume": False, "created_at": now(), "new_field": 1,
        }  # fmt: skip
        body = usual | fields | {"id": sandbox_id, "status": "running", "last_updated": now()}
        self.boxes[sandbox_id] = Box(root, body, envs)
        return self.boxes[sandbox_id]

    async def list(self, request: Request) -> Response:
        return JSONResponse([b.body for b in self.boxes.values() if b.body["status"] != "stopped"])

    async def get(self, request: Request) -> Response:
        return JSONResponse(self.box(request.path_params["id"]).body)

    async def delete(self, request: Request) -> Response:
        self.box(request.path_params["id"]).body["status"] = "stopped"
        return Response(status_code=204)

    async def close(self) -> None:
        """End what still runs in the background."""
        for box in self.boxes.values():
            for pid, (_, _, process) in box.processes.items():
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                await process.wait()

    def box(self, sandbox_id: object) -> Box:
        if sandbox_id not in self.boxes:
            raise Refused(404, "not_found", "No such sandbox.")
        return self.boxes[str(sandbox_id)]

    def usable(self, request: HTTPConnection) -> Box:
        """The sandbox of a call that needs it running."""
        box = self.box(request.path_params["id"])
        if box.body["status"] == "paused" and box.body["auto_resume"]:
            self.turn(box, "paused", "running", signal.SIGCONT)
        if box.body["status"] != "running":
            raise Refused(409, "invalid_state", f"The sandbox is {box.body['status']}.")
        return box

    def turn(self, box: Box, before: str, after: str, number: signal.Signals) -> Response:
        if box.body["status"] != before:
            raise Refused(409, "invalid_state", f"The sandbox is {box.body['status']}.")
        for pid, (_, _, process) in box.processes.items():
            if process.returncode is None:
                os.killpg(pid, number)
        box.body |= {"status": after, "last_updated": now()}
        return JSONResponse(box.body)

    async def pause(self, request: Request) -> Response:
        return self.turn(self.box(request.path_params["id"]), "running", "paused", signal.SIGSTOP)

    async def resume(self, request: Request) -> Response:
        return self.turn(self.box(request.path_params["id"]), "paused", "running", signal.SIGCONT)

    async def timeout(self, request: Request) -> Response:
        box, body = self.box(request.path_params["id"]), await request.json()
        if box.body["status"] == "stopped":
            return refuse(409, "invalid_state", "The sandbox has ended.")
        if body.get("timeout_sec", 0) < 0:
            return refuse(400, "invalid_request", "timeout_sec: must be at least 0.")
        if "timeout_sec" in body:
            box.body["timeout_sec"] = body["timeout_sec"]
        if "lifetime_sec" in body:
            box.body["lift_on_pause"] = body.get("lift_on_pause", False)
            end, is_now = now(body["lifetime_sec"]), cast("str | None", box.body.pop("expires_at", None))
            if body.get("extend_only"):
                end = is_now and max(end, is_now)
            if body["lifetime_sec"] and end:
                box.body["expires_at"] = end
        box.body["on_expiry"] = body.get("on_expiry", box.body["on_expiry"])
        return JSONResponse(box.body)

    async def fork(self, request: Request) -> Response:
        box, body = self.usable(request), await request.json()
        copies = [self.add(box.body, box.envs, box) for _ in range(body["count"])]
        return JSONResponse({"sandboxes": [copy.body for copy in copies]}, 201)

    async def save(self, request: Request) -> Response:
        body = await request.json()
        box, name = self.box(body["sandbox_id"]), body.get("name") or "snap-" + uuid.uuid4().hex[:8]
        if box.body["status"] == "stopped":
            return refuse(409, "invalid_state", "The sandbox has ended.")
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", name):
            return refuse(400, "invalid_request", "name: letters, digits, dot, dash and underscore only.")
        if name == "minimal":
            return refuse(409, "name_reserved", "The platform has a template of this name.")
        if name in self.templates and request.query_params.get("overwrite") != "true":
            return refuse(409, "template_name_taken", "There is a template of this name.")
        root = self.root / f"template-{uuid.uuid4().hex}"
        shutil.copytree(box.root, root)
        fields: dict[str, object] = {
            "name": name, "type": "snapshot", "vcpus": box.body["vcpus"], "memory_mb": box.body["memory_mb"],
            "size_bytes": 5_300_000, "created_at": now(), "platform": False,
        }  # fmt: skip
        self.templates[name] = Saved(root, fields, box.envs)
        return JSONResponse(fields, 201)

    async def list_templates(self, request: Request) -> Response:
        minimal = {
            "name": "minimal", "type": "base", "size_bytes": 0,
            "created_at": "2026-01-01T00:00:00Z", "platform": True,
        }  # fmt: skip
        wanted = request.query_params.get("type")
        found = [minimal, *(saved.body for saved in self.templates.values())]
        return JSONResponse([one for one in found if wanted in (None, one["type"])])

    async def delete_template(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == "minimal":
            return refuse(403, "forbidden", "The platform's templates cannot be deleted.")
        if self.templates.pop(name, None) is None:
            return refuse(404, "not_found", "No template of this name.")
        return Response(status_code=204)

    async def ping(self, request: Request) -> Response:
        self.usable(request)
        return Response(status_code=204)

    async def exec(self, request: Request) -> Response:
        box = self.usable(request)
        body = await request.json()
        envs = {"PATH": os.environ["PATH"], **box.envs, **body.get("envs", {})}
        output = asyncio.subprocess.DEVNULL if body.get("background") else asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                resolved(body["cmd"]), *body.get("args", []), env=envs, cwd=body.get("cwd", box.root),
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

    async def follow(self, socket: WebSocket) -> None:
        """A program that is followed in the encoding `binary`; its output is sent in one piece at its end."""
        try:
            box = self.usable(socket)
        except Refused as refused:
            await socket.send_denial_response(refused.answer)
            return
        await socket.accept()
        start = await socket.receive_json()
        try:
            process = await asyncio.create_subprocess_exec(
                resolved(start["cmd"]), *start["args"], cwd=start.get("cwd", box.root), start_new_session=True,
                env={"PATH": os.environ["PATH"], **box.envs, **start.get("envs", {})},
                stdin=asyncio.subprocess.PIPE if start["stdin"] else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except FileNotFoundError:
            await socket.send_bytes(b"\x02not found")
            await socket.send_json({"type": "exit", "exit_code": 127})
            return
        await socket.send_json({"type": "start", "pid": process.pid})
        feeding = asyncio.create_task(self.feed(socket, process))
        out, err = await asyncio.gather(*(pipe.read() for pipe in (process.stdout, process.stderr) if pipe))
        feeding.cancel()
        with suppress(WebSocketDisconnect):
            for kind, data in ((b"\x01", out), (b"\x02", err)):
                if data:
                    await socket.send_bytes(kind + data)
            await socket.send_json({"type": "exit", "exit_code": await process.wait()})
            await socket.close()

    async def feed(self, socket: WebSocket, process: asyncio.subprocess.Process) -> None:
        """Pass input on until its end; whoever leaves ends the process."""
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            if process.stdin is None:
                continue
            if message.get("text") is not None:
                process.stdin.close()
            else:
                process.stdin.write(message["bytes"])
        os.killpg(process.pid, signal.SIGKILL)

    async def ps(self, request: Request) -> Response:
        box = self.usable(request)
        return JSONResponse({"processes": [
            {"pid": pid, "tag": tag, "cmd": cmd[0], "args": cmd[1:]}
            for pid, (tag, cmd, process) in box.processes.items() if process.returncode is None
        ]})  # fmt: skip

    async def kill(self, request: Request) -> Response:
        box, selector = self.usable(request), request.path_params["selector"]
        for pid, (tag, _, process) in box.processes.items():
            if selector in (str(pid), tag) and process.returncode is None:
                os.killpg(pid, getattr(signal, request.query_params["signal"]))
                await process.communicate()
                return Response(status_code=204)
        return refuse(404, "not_found", "No such process.")

    async def watch(self, request: Request) -> Response:
        """What is made in one directory, by looking again and again; a file named `stop` ends it with an error."""
        box = self.usable(request)
        top = self.local(box, request.query_params["path"])
        if not top.is_dir():
            return refuse(404, "not_found", "No such directory.")

        async def lines() -> AsyncIterator[str]:
            seen = set(top.iterdir())
            yield 'data: {"type": "started"}\n\n: silence\n\n'
            while True:
                for path in sorted(set(top.iterdir()) - seen):
                    seen.add(path)
                    if path.name == "stop":
                        yield 'data: {"type":"error","code":"invalid_state","message":"It is paused."}\n\n'
                        return
                    name = name_to_text(os.fsencode(path.name))
                    event = {
                        "type": "event",
                        "event": "create",
                        "path": f"{request.query_params['path']}/{name}",
                    }
                    yield f"data: {json.dumps(event | {'name': name})}\n\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def unpack(self, request: Request) -> Response:
        top = self.local(self.usable(request), request.query_params["path"])
        top.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(await request.body())) as tar:
            tar.extractall(top, filter="fully_trusted")
        return Response(status_code=204)

    async def pack(self, request: Request) -> Response:
        box, body = self.usable(request), await request.json()
        top = self.local(box, body["path"])
        if not top.is_dir():
            return refuse(404, "not_found", "No such directory.")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(top, ".")
        return Response(archive.getvalue(), media_type="application/x-tar")

    def local(self, box: Box, path: str) -> Path:
        return box.root / os.fsdecode(text_to_name(path)).lstrip("/")

    async def files(self, request: Request) -> Response:
        box, verb = self.usable(request), request.path_params["verb"]
        if verb.endswith("write"):
            async with request.form(max_part_size=1 << 30) as form:
                target = self.local(box, str(form["path"]))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(await form["file"].read())  # type: ignore[union-attr]
                target.chmod(int(str(form.get("mode", "644")), 8))
                asked = {name: form[name] for name in ("owner", "atomic", "user") if name in form}
                os.setxattr(target, "user.asked", json.dumps(asked).encode())
            return Response(status_code=204)
        body = await request.json()
        path = self.local(box, body.get("path", body.get("source", "")))
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
        if not os.path.lexists(path):
            return refuse(404, "not_found", f"No such file: {body.get('path')}")
        if verb.endswith("read"):
            return content(path, request.headers.get("range", ""))
        if verb == "stat":
            return JSONResponse({"entry": self.entry(box, path)})
        if verb == "move":
            return JSONResponse({"entry": self.entry(box, path.rename(self.local(box, body["destination"])))})
        pattern = "*" if body["depth"] == 1 else "**/*"
        return JSONResponse({"entries": [self.entry(box, p) for p in sorted(path.glob(pattern))]})

    def entry(self, box: Box, path: Path) -> dict[str, object]:
        facts = path.lstat()
        kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
        kind = kinds.get(stat.S_IFMT(facts.st_mode), "file")
        return {
            "name": name_to_text(os.fsencode(path.name)), "path": name_to_text(os.fsencode(f"/{path.relative_to(box.root)}")),
            "type": "file" if kind == "fifo" else kind, "kind": kind, "broken": kind == "symlink" and not path.exists(),
            "size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode), "permissions": stat.filemode(facts.st_mode),
            "owner": "root", "group": "root", "modified_at": int(facts.st_mtime),
        }  # fmt: skip


def content(path: Path, wanted: str) -> Response:
    data = path.read_bytes()
    headers = {"etag": f'"{hash(data):x}"'}
    if found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
        start, end = int(found[1]), min(len(data), int(found[2] or len(data)) + 1)
        if start >= len(data):
            return refuse(416, "invalid_request", "The file has no such part.")
        headers["content-range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return Response(data[start:end], 206, headers, "application/octet-stream")
    return Response(data, 200, headers, "application/octet-stream")
