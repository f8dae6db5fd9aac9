"""Templates built by the SDK's builder."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2b import AsyncSandbox, AsyncTemplate, Sandbox, Template, default_build_logger

BASE = "minimal"


def _name() -> str:
    return f"built-{uuid.uuid4().hex[:8]}"


def _failure(call: Callable[[], Any]) -> Exception:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it succeeded")


@contextmanager
def _files() -> Generator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "app/sub dir").mkdir(parents=True)
        (path / "app/main.py").write_text("print('main')\n")
        (path / "app/sub dir/data.txt").write_text("data\n")
        (path / "one.txt").write_text("one\n")
        yield path


def _sandbox_output(name: str, command: str) -> str:
    sandbox = Sandbox.create(name, timeout=60)
    try:
        return sandbox.commands.run(command).stdout
    finally:
        sandbox.kill()


def build_with_steps_and_files() -> None:
    name = _name()
    messages: list[Any] = []
    with _files() as folder:
        template = (
            Template(file_context_path=folder)
            .from_template(BASE)
            .set_envs({"GREETING": "hello", "WHO": "$GREETING world"})
            .set_workdir("/tmp/" + name)
            .copy("app", "src/")
            .copy("one.txt", "/tmp/" + name + "/renamed.txt", mode=0o640)
            .run_cmd(["echo $WHO > greeting.txt", "cat src/main.py >> greeting.txt"])
        )
        info = Template.build(template, name, on_build_logs=messages.append)
    assert info.name == name
    uuid.UUID(info.build_id)
    texts = [entry.message for entry in messages]
    assert any("echo $WHO > greeting.txt" in text for text in texts), texts
    assert Template.exists(name)
    for reference in (name, info.template_id, f"{name}:default"):
        found = _sandbox_output(
            reference, f"cd /tmp/{name}; cat greeting.txt renamed.txt 'src/sub dir/data.txt'; echo $GREETING"
        )
        assert found == "hello world\nprint('main')\none\ndata\nhello\n", found


def files_are_uploaded_once() -> None:
    messages: list[Any] = []
    with _files() as folder:
        for _ in range(2):
            messages.clear()
            template = Template(file_context_path=folder).from_template(BASE).copy("one.txt", "/tmp/one")
            Template.build(template, _name(), on_build_logs=messages.append)
        texts = [entry.message for entry in messages]
        assert "Skipping upload of 'one.txt', already cached" in texts, texts


def a_failed_step_names_its_command_and_caller() -> None:
    template = Template().from_template(BASE).run_cmd("true").run_cmd("echo why; exit 7")
    messages: list[Any] = []
    error = _failure(lambda: Template.build(template, _name(), on_build_logs=messages.append))
    # By name: the classes of the releases are different ones.
    assert type(error).__name__ == "BuildException"
    assert "echo why; exit 7" in str(error), error
    assert "exit code 7" in str(error), error
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    assert __file__ in frames
    assert any("why" in entry.message for entry in messages)


def start_and_ready_commands_have_run() -> None:
    # That their processes are in every sandbox is shown on a virtual machine (tests/vm).
    name = _name()
    template = (
        Template()
        .from_template(BASE)
        .set_start_cmd(f"echo started > /tmp/{name}; exec sleep 1000", f"grep -q started /tmp/{name}")
    )
    Template.build(template, name)
    assert _sandbox_output(name, f"cat /tmp/{name}") == "started\n"


def tags() -> None:
    name = _name()
    template = Template().from_template(BASE).run_cmd("true")
    first = Template.build(template, f"{name}:v1", tags=["stable"])
    assert sorted(first.tags) == ["stable", "v1"]
    assert sorted(tag.tag for tag in Template.get_tags(name)) == ["stable", "v1"]
    assigned = Template.assign_tags(f"{name}:v1", ["production", "default"])
    assert assigned.build_id == first.build_id
    assert sorted(assigned.tags) == ["default", "production"]
    Template.remove_tags(name, ["stable", "production"])
    assert sorted(tag.tag for tag in Template.get_tags(name)) == ["default", "v1"]
    assert all(tag.build_id == first.build_id for tag in Template.get_tags(name))
    assert "404" in str(_failure(lambda: Template.remove_tags(name, ["gone"])))


def names_that_do_not_exist() -> None:
    assert not Template.exists(_name())
    assert Template.exists("minimal")
    for name in ("Bad Name", "ns/name", ""):
        template = Template().from_template(BASE).run_cmd("true")
        assert (
            "name"
            in str(_failure(lambda name=name, template=template: Template.build(template, name))).lower()
        )


def skip_cache_runs_all_steps() -> None:
    template = Template().from_template(BASE).run_cmd("sleep 1.2; echo ran")
    seen: list[bool] = []
    for skip in (False, False, True):
        messages: list[Any] = []
        Template.build(template, _name(), skip_cache=skip, on_build_logs=messages.append)
        seen.append(any(entry.message.strip() == "ran" for entry in messages))
    assert seen == [True, False, True]


def the_log_of_a_build_comes_in_pages() -> None:
    messages: list[Any] = []
    template = (
        Template().from_template(BASE).run_cmd("for i in $(seq 1 150); do echo line-$i; sleep 0.003; done")
    )
    Template.build(template, _name(), on_build_logs=messages.append)
    text = "".join(entry.message + "\n" for entry in messages)
    lines = [line for line in text.split("\n") if line.startswith("line-")]
    assert lines == [f"line-{i}" for i in range(1, 151)]


def build_in_background() -> None:
    template = Template().from_template(BASE).run_cmd("true")
    info = Template.build_in_background(template, _name())
    deadline = time.monotonic() + 30
    while (status := Template.get_build_status(info)).status.value not in ("ready", "error"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status.status.value == "ready", status


async def build_async() -> None:
    name = _name()
    with _files() as folder:
        template = (
            AsyncTemplate(file_context_path=folder).from_template(BASE).copy("one.txt", "/tmp/async.txt")
        )
        await AsyncTemplate.build(template, name, on_build_logs=default_build_logger(min_level="error"))
    sandbox = await AsyncSandbox.create(name, timeout=60)
    try:
        assert (await sandbox.commands.run("cat /tmp/async.txt")).stdout == "one\n"
    finally:
        await sandbox.kill()


def the_default_template_is_there() -> None:
    # `base`, which no host of the tests has built.
    sandbox = Sandbox.create(timeout=60)
    try:
        assert sandbox.commands.run("echo base").stdout == "base\n"
    finally:
        sandbox.kill()
    name = _name()
    Template.build(Template().from_base_image().run_cmd("pwd; whoami > owner"), name)
    assert _sandbox_output(name, "cat /home/user/owner") == "user\n"
