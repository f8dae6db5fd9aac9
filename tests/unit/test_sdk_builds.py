"""Builds as the SDK and `wrenn build` see them, against a server that answers as docs/design/builds.md says."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
import typer

from wrenn import (
    AsyncTemplate,
    Build,
    BuildEvent,
    BuildFailedError,
    InvalidRequestError,
    NotFoundError,
    Template,
)
from wrenn.cli.build_display import BuildDisplay
from wrenn.cli.main import app
from wrenn.recipe import BaseConfig, Copy, Run, parse_lines
from wrenn.recipe.archive import ContextArchive
from wrenn.sdk._parse import Fields

EVENTS: list[tuple[str, dict[str, object]]] = [
    ("note", {"message": "VOLUME has no effect"}),
    ("step", {"step": 1, "total": 2, "phase": "recipe", "cmd": "RUN one"}),
    ("done", {"step": 1, "exit": 0, "ok": True, "elapsed_ms": 5, "cached": True}),
    ("step", {"step": 2, "total": 2, "phase": "recipe", "cmd": "RUN two \\\n  more"}),
    ("output", {"step": 2, "stream": "stdout", "text": "hel"}),
    ("output", {"step": 2, "stream": "stderr", "text": "warn\x1b[2J\n"}),
    ("output", {"step": 2, "stream": "stdout", "text": "lo\n"}),
    ("newer", {"step": 2}),
    ("done", {"step": 2, "exit": 0, "ok": True, "elapsed_ms": 1500, "cached": False}),
]


END: tuple[str, dict[str, object]] = ("end", {"status": "success", "error": None})


class Platform(ThreadingHTTPServer):
    """Answers calls about one build, whose log is `EVENTS`; after each `cut_after` events it cuts the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.config: dict[str, object] = {}
        self.archive: bytes | None = None
        self.status = "success"
        self.cancelled = False
        self.cut_after = 4
        self.connections = 0
        self.event_ids: list[str] = []

    def build(self) -> dict[str, object]:
        failed = self.status != "success"
        return {
            "id": "b-1",
            "name": "app",
            "tag": self.config.get("tag"),
            "base_template": "minimal",
            "recipe": [],
            "vcpus": 1,
            "memory_mb": 512,
            "status": self.status,
            "current_step": 2,
            "total_steps": 2,
            "logs": [],
            "error": "recipe step 2 failed: exit code 3" if failed else None,
            "created_at": "2026-01-01T00:00:00Z",
            "started_at": "2026-01-01T00:00:01Z",
            "completed_at": "2026-01-01T00:00:03.5Z",
        }


class _Handler(BaseHTTPRequestHandler):
    server: Platform  # pyright: ignore[reportIncompatibleVariableOverride] - the only server it is used with
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass

    def do_POST(self) -> None:
        if self.path == "/v1/builds/b-1/cancel":
            self.server.cancelled = True
            self._answer(204, b"")
            return
        assert self.path == "/v1/builds"
        body = self._body()
        kind = self.headers["Content-Type"]
        if kind == "application/json":
            self.server.config = json.loads(body)
        else:
            boundary = re.fullmatch(r"multipart/form-data; boundary=(\w+)", kind)
            assert boundary
            _, config, archive, end = body.split(f"--{boundary[1]}".encode())
            assert b'name="config"' in config
            assert b'name="archive"; filename="archive"' in archive
            assert end == b"--\r\n"
            self.server.config = json.loads(config.partition(b"\r\n\r\n")[2])
            self.server.archive = archive.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        self._answer(201, json.dumps(self.server.build()).encode())

    def do_GET(self) -> None:
        if self.path == "/v1/builds":
            self._answer(200, json.dumps([self.server.build()]).encode())
        elif self.path == "/v1/builds/b-1":
            self._answer(200, json.dumps(self.server.build()).encode())
        elif self.path == "/v1/builds/b-1/logs" and self.headers["Accept"] == "text/event-stream":
            self._events()
        elif self.path == "/v1/builds/b-1/logs":
            entry = {
                "step": 1,
                "phase": "recipe",
                "cmd": "RUN one",
                "stdout": "a\nb\n",
                "stderr": "",
                "exit": 0,
            }
            self._answer(200, json.dumps([entry | {"ok": True, "elapsed_ms": 7, "cached": False}]).encode())
        else:
            self._answer(404, b'{"error":{"code":"not_found","message":"No such build."}}')

    def _events(self) -> None:
        self.server.connections += 1
        seen = int(self.headers.get("Last-Event-ID") or 0)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        end = ("end", {"status": self.server.status, "error": self.server.build()["error"]})
        for number, (kind, data) in list(enumerate([*EVENTS, end], start=1))[seen:][: self.server.cut_after]:
            self.wfile.write(f": alive\n\nid: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        self.close_connection = True

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    server = Platform()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("WRENN_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WRENN_API_KEY", "wrn_" + "0" * 32)
    monkeypatch.setattr("wrenn.sdk._sync.builds._PAUSE_S", 0.01)
    monkeypatch.setattr("wrenn.sdk._async.builds._PAUSE_S", 0.01)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_builder_makes_a_recipe_that_the_parser_reads(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print(1)")
    (tmp_path / "secret").write_text("s")
    (tmp_path / ".dockerignore").write_text("secret")
    template = (
        Template(context=tmp_path)
        .from_image("debian:12")
        .run("apt-get update\napt-get upgrade", timeout_s=90)
        .env({"PRICE": "5$ and $HOME", "EMPTY": ""})
        .workdir("/srv/app")
        .user("app")
        .copy(".", to="./")
        .start("python3 app.py")
        .ready("test -e /tmp/ready", retries=5)
    )
    events: list[BuildEvent] = []
    build = template.build("app", tag="1", vcpus=2, on_event=events.append)
    assert (build.template, build.status, build.has_ended) == ("app:1", "success", True)
    assert {key: value for key, value in platform.config.items() if key not in ("recipe", "healthcheck")} == {
        "name": "app",
        "tag": "1",
        "vcpus": 2,
        "skip_pre_post": True,
    }
    lines = platform.config["recipe"]
    plan = parse_lines(cast("list[str]", lines)).plan(BaseConfig(environment={"HOME": "/root"}))
    assert isinstance(plan.steps[0], Run)
    assert (plan.steps[0].argv[-1], plan.steps[0].timeout_s) == ("apt-get update\napt-get upgrade", 90)
    assert plan.environment == {"HOME": "/root", "PRICE": "5$ and $HOME", "EMPTY": ""}
    assert platform.archive is not None
    with ContextArchive.open(io.BytesIO(platform.archive)) as archive:
        (copy,) = [step for step in plan.steps if isinstance(step, Copy)]
        assert b"print(1)" in b"".join(archive.select(copy).chunks(destination_is_directory=True))
    assert [event.type for event in events] == [*(kind for kind, _ in EVENTS), "end"], (
        "over three connections"
    )
    assert platform.connections == 3


def test_the_asynchronous_builder_does_the_same(platform: Platform) -> None:
    events: list[BuildEvent] = []

    async def run() -> Build:
        template = AsyncTemplate().from_template("python:3").run("true")
        started = await template.start_build("app")
        await AsyncTemplate.cancel_build(started.id)
        return await template.build("app", on_event=events.append)

    assert asyncio.run(run()).status == "success"
    assert platform.config["recipe"] == ["FROM template://python:3", "RUN true"]
    assert platform.archive is None
    assert platform.cancelled
    assert len(events) == len(EVENTS) + 1


def test_a_build_that_failed_raises_with_its_reason(platform: Platform) -> None:
    platform.status = "failed"
    with pytest.raises(BuildFailedError, match="recipe step 2 failed: exit code 3") as failure:
        Template().run("false").build("app")
    assert failure.value.build.status == "failed"


def test_what_is_refused_without_a_call(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a\nONBUILD RUN b\n")
    for build, message in (
        (lambda: Template().build("app"), "The recipe is empty"),
        (lambda: Template().run("").build("app"), "line 1: nothing follows"),
        (lambda: Template().copy("a", to="/b").build("app"), "pass context=FOLDER"),
        (lambda: Template().copy(to="/b"), "needs a source"),
        (lambda: Template().copy("a b", to="/b"), "without white space"),
        (lambda: Template().copy("../a", to="/b").build("app"), "line 1: '../a' must be a path inside"),
        (lambda: Template().env({"A": "b "}), "ends with white space"),
        (lambda: Template().env({"A-B": "c"}).build("app"), "line 1: expected ENV NAME=VALUE"),
        (lambda: Template().from_image("a").from_template("b"), "one base"),
        (lambda: Template().run("a").ready("b", retries=-1).build("app"), "--retries must be"),
        (lambda: Template.from_dockerfile(tmp_path).build("app"), "line 2: ONBUILD is not supported"),
        (lambda: Template.from_dockerfile(tmp_path).run("a"), "in the Dockerfile"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            build()


def test_calls_about_builds(platform: Platform) -> None:
    assert [build.id for build in Template.builds()] == ["b-1"]
    (step,) = Template.build_log("b-1")
    assert (step.command, step.stdout, step.ok) == ("RUN one", "a\nb\n", True)
    assert [event.type for event in Template.follow_build("b-1")][-1] == "end"
    with pytest.raises(NotFoundError):
        Template.get_build("b-2")
    for build_id in ("", "..", " "):
        with pytest.raises(InvalidRequestError):
            Template.get_build(build_id)
    assert platform.status == "success"


def run_command(*arguments: str) -> None:
    """Run `wrenn` in this process; errors are raised."""
    app(arguments, standalone_mode=False)


def test_the_command_builds_a_folder(
    platform: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "Dockerfile").write_text("ARG V\nFROM debian:$V\nCOPY a /a\nVOLUME /x\n")
    (folder / "a").write_text("a")
    run_command("build", str(folder), "--build-arg", "V=12", "--no-cache", "--disk-size-mb", "2048")
    captured = capsys.readouterr()
    assert captured.out == "app\n"
    assert {key: platform.config[key] for key in ("name", "build_args", "no_cache", "disk_size_mb")} == {
        "name": "web",
        "build_args": {"V": "12"},
        "no_cache": True,
        "disk_size_mb": 2048,
    }
    assert platform.config["dockerfile"] == (folder / "Dockerfile").read_text()
    assert platform.archive is not None
    plain = re.sub(r"\b\d+\.\ds?", "T", captured.err)
    assert plain.splitlines() == [
        "note: line 4: VOLUME has no effect: the whole disk of a sandbox is kept",
        "note: VOLUME has no effect",
        "#1 [1/2] RUN one",
        "#1 CACHED",
        "#2 [2/2] RUN two \\ …",
        "#2 T warn�[2J",
        "#2 T hello",
        "#2 DONE T",
        "Built in T (2 steps, 1 cached)",
    ]


def test_a_failed_build_fails_the_command(platform: Platform, tmp_path: Path) -> None:
    platform.status = "failed"
    file = tmp_path / "x.Dockerfile"
    file.write_text("FROM debian\nRUN false\n")
    with pytest.raises(BuildFailedError):
        run_command("build", str(file), "-t", "app:2")
    assert platform.config["tag"] == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-t", "a b"), "--tag must be NAME or NAME:TAG"),
        (("-t", "a:"), "--tag must be NAME or NAME:TAG"),
        (("-t", "a", "--build-arg", "UNSET_HERE"), "--build-arg UNSET_HERE: expected NAME=VALUE"),
        (("-t", "a"), "line 1: RUN before FROM"),
    ],
)
def test_what_the_command_refuses(
    platform: Platform, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "Dockerfile").write_text("RUN a\n")
    # What typer finds itself is of its own class.
    with pytest.raises((InvalidRequestError, typer.BadParameter), match=message):
        run_command("build", str(tmp_path), *arguments)
    assert platform.config == {}


def test_the_commands_about_builds(platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("builds", "list")
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["b-1", "app", "success", "2/2"]
    run_command("builds", "show", "b-1")
    out = capsys.readouterr().out
    assert "time      2.5 s" in out
    assert "RUN one" in out
    run_command("builds", "logs", "b-1")
    assert capsys.readouterr().out == "#1 RUN one\n#1 a\n#1 b\n"
    run_command("builds", "logs", "b-1", "--follow")
    assert capsys.readouterr().out.splitlines()[-1] == "app"
    run_command("builds", "cancel", "b-1")
    assert platform.cancelled


def test_a_terminal_shows_one_line_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = io.StringIO()
    with BuildDisplay(out, live=True) as display:
        for kind, data in EVENTS:
            display(event(kind, data))
        display(event("step", {"step": 3, "total": 3, "cmd": "RUN false"}))
        display(event("output", {"step": 3, "stream": "stderr", "text": "no\nend"}))
        display(event("done", {"step": 3, "exit": 3, "ok": False, "elapsed_ms": 100}))
        display(event("end", {"status": "failed"}))
    lines = [line.rpartition("\r\x1b[K")[2] for line in out.getvalue().split("\n")]
    assert [re.sub(r" +", " ", line).strip() for line in lines] == [
        "note: VOLUME has no effect",
        "=> [1/2] RUN one CACHED",
        "=> [2/2] RUN two \\ … 1.5s",
        "=> [3/3] RUN false FAILED after 0.1s with exit code 3",
        "no",
        "end",
        "",
    ]
    assert max(map(len, lines)) < 60
    assert "\x1b[2J" not in out.getvalue()


def test_a_build_that_begins_again_counts_its_steps_anew() -> None:
    out = io.StringIO()
    with BuildDisplay(out, live=False) as display:
        for kind, data in (*EVENTS, *EVENTS, END):
            display(event(kind, data))
    assert "note: the build was interrupted and begins again" in out.getvalue()
    assert out.getvalue().endswith("(2 steps, 1 cached)\n")


def event(kind: str, data: dict[str, object]) -> BuildEvent:
    """Return an event as the SDK parses it."""
    return BuildEvent.parse(kind, Fields("event", data))
