"""Calls the public client over its whole surface; runs under the client's own Python and virtual environment, not ours.

Each function whose name begins with `check_` is one step; the program prints a JSON object of step name → "" or what went wrong.
`WRENN_BASE_URL` and `WRENN_API_KEY` say where.
"""

import asyncio
import json
import sys
import time
import traceback
import urllib.request

from wrenn import (
    AsyncCapsule,
    Capsule,
    GitCommandError,
    WrennClient,
    WrennConflictError,
    WrennNotFoundError,
    WrennValidationError,
)

SIZE = {"memory_mb": 256}


def raises(kind, call):
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def check_lifecycle(capsule):
    assert capsule.capsule_id.startswith("cl-")
    capsule.wait_ready()
    assert capsule.is_running()
    info = capsule.get_info()
    assert info.status == "running"
    assert info.memory_mb == 256
    assert info.created_at.tzinfo is not None
    assert capsule.capsule_id in [other.id for other in Capsule.list()]
    capsule.ping()
    assert capsule.pause().status == "paused"
    assert Capsule.get_info(capsule.capsule_id).status == "paused"
    assert Capsule.connect(capsule.capsule_id).is_running(), "connecting resumes"
    Capsule.pause(capsule.capsule_id)
    assert capsule.resume().status == "running"


def check_timeout_zero_and_template(capsule):
    with Capsule(template="minimal", vcpus=1, timeout=0, wait=True, **SIZE) as other:
        assert other.info.timeout_sec in (0, None)
        other_id = other.capsule_id
    raises((WrennNotFoundError, WrennConflictError, AssertionError), lambda: still_running(other_id))
    raises(WrennNotFoundError, lambda: Capsule(template="no-such-template"))
    raises(WrennNotFoundError, lambda: Capsule.get_info("cl-" + "0" * 25))


def still_running(capsule_id):
    assert Capsule.get_info(capsule_id).status == "running"


def check_commands(capsule):
    result = capsule.commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert capsule.commands.run("pwd", cwd="/tmp", envs={"A": "b"}).stdout == "/tmp\n"
    binary = capsule.commands.run("printf '\\377\\376'")
    assert binary.exit_code == 0


def check_background(capsule):
    handle = capsule.commands.run("while :; do echo tick; sleep 0.2; done", background=True, tag="ticker")
    assert handle.pid > 0
    assert handle.tag == "ticker"
    assert handle.pid in [process.pid for process in capsule.commands.list()]
    events = capsule.commands.connect(handle.pid)
    for event in events:
        if event.type == "stdout" and "tick" in event.data:
            break
    events.close()
    capsule.commands.kill(handle.pid)
    raises(
        WrennNotFoundError,
        lambda: [capsule.commands.kill(handle.pid) for _ in range(100) if not time.sleep(0.1)],
    )


def check_stream(capsule):
    events = list(capsule.commands.stream("echo one; echo two >&2; exit 4"))
    assert next(event.type for event in events) == "start"
    assert events[-1].exit_code == 4
    assert "".join(event.data for event in events if event.type == "stdout") == "one\n"
    assert "".join(event.data for event in events if event.type == "stderr") == "two\n"
    events = list(capsule.commands.stream("echo", args=["with", "arguments"]))
    assert events[-1].exit_code == 0


def check_files(capsule):
    files = capsule.files
    files.write("/root/a.txt", "text")
    assert files.read("/root/a.txt") == "text"
    files.write("/root/b.bin", bytes(range(256)))
    assert files.read_bytes("/root/b.bin") == bytes(range(256))
    assert {"a.txt", "b.bin"} <= {entry.name for entry in files.list("/root")}
    assert files.exists("/root/a.txt")
    assert not files.exists("/root/none")
    assert files.make_dir("/root/folder").type == "directory"
    assert files.make_dir("/root/folder").name == "folder", "making it again gives the same"
    content = b"0123456789" * 100_000
    files.upload_stream("/root/folder/big", iter([content[:500_000], content[500_000:]]))
    assert b"".join(files.download_stream("/root/folder/big")) == content
    files.remove("/root/folder")
    assert not files.exists("/root/folder")
    raises(WrennNotFoundError, lambda: files.read("/root/none"))
    raises(WrennValidationError, lambda: files.read(""))


def check_terminal(capsule):
    with capsule.pty(cmd="/bin/sh", cols=90, rows=30, envs={"PS1": "> "}, cwd="/tmp") as terminal:
        shown = b""
        terminal.write(b"stty size; pwd\n")
        for event in terminal:
            if event.type == "output":
                shown += event.data
                if b"30 90" in shown and b"/tmp\r\n" in shown:
                    break
        assert terminal.pid
        assert terminal.tag
        terminal.resize(100, 40)
        with capsule.pty_connect(terminal.tag) as second:
            second.write(b"stty size\n")
            shown = b""
            for event in second:
                if event.type == "output":
                    shown += event.data
                    if b"40 100" in shown:
                        break
        terminal.write(b"exit 5\n")
        assert [event.exit_code for event in terminal if event.type == "exit"] == [5]
    with capsule.pty(cmd="/bin/sh") as terminal:
        next(terminal)
        terminal.kill()
        assert "exit" in [event.type for event in terminal]


def check_git(capsule):
    git = capsule.git
    git.init("/root/repo", initial_branch="main")
    git.configure_user("Ada", "ada@example.com", cwd="/root/repo", scope="local")
    capsule.files.write("/root/repo/file", "1")
    assert git.status(cwd="/root/repo").has_untracked
    git.add(all=True, cwd="/root/repo")
    git.commit("first", cwd="/root/repo")
    assert git.status(cwd="/root/repo").is_clean
    git.create_branch("topic", cwd="/root/repo")
    assert {branch.name for branch in git.branches(cwd="/root/repo")} == {"main", "topic"}
    git.checkout_branch("main", cwd="/root/repo")
    git.delete_branch("topic", cwd="/root/repo")
    git.init("/root/bare", bare=True, initial_branch="main")
    git.remote_add("origin", "/root/bare", cwd="/root/repo")
    assert git.remote_get("origin", cwd="/root/repo") == "/root/bare"
    git.push("origin", "main", cwd="/root/repo")
    git.clone("/root/bare", "/root/clone")
    git.pull("origin", "main", cwd="/root/clone")
    assert capsule.files.read("/root/clone/file") == "1"
    git.set_config("user.name", "Bob", cwd="/root/repo", scope="local")
    assert git.get_config("user.name", cwd="/root/repo", scope="local") == "Bob"
    raises(GitCommandError, lambda: git.clone("/root/no-such-repository"))


def check_ports(capsule):
    capsule.commands.run("python3 -m http.server 8000", background=True)
    url = capsule.get_url(8000)
    assert url.startswith("ws://8000-" + capsule.capsule_id)
    name, _, port = url.removeprefix("ws://").rpartition(":")
    client = WrennClient()
    for _ in range(100):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/",
            headers={"Host": f"{name}:{port}", "X-API-Key": client.http.headers["X-API-Key"]},
        )
        try:
            assert urllib.request.urlopen(request).status == 200
            break
        except urllib.error.HTTPError as error:
            if error.code != 502:
                raise
            time.sleep(0.1)
    else:
        raise AssertionError("the port was not reached")
    client.close()


def check_snapshots(capsule):
    capsule.files.write("/root/kept", "kept")
    made = capsule.create_snapshot("public-client")
    assert (made.name, made.type) == ("public-client", "snapshot")
    raises(Exception, lambda: capsule.create_snapshot("public-client"))
    capsule.create_snapshot("public-client", overwrite=True)
    with WrennClient() as client:
        assert "public-client" in [template.name for template in client.snapshots.list(type="snapshot")]
        with Capsule(template="public-client") as copy:
            copy.wait_ready()
            assert copy.files.read("/root/kept") == "kept"
        client.snapshots.delete("public-client")
        raises(WrennNotFoundError, lambda: client.snapshots.delete("public-client"))


def check_asynchronous(capsule):
    async def main():
        other = await AsyncCapsule.connect(capsule.capsule_id)
        assert await other.is_running()
        assert (await other.commands.run("echo hello")).stdout == "hello\n"
        await other.files.write("/root/async", "x")
        assert await other.files.read("/root/async") == "x"
        assert [event.type async for event in other.commands.stream("true")][-1] == "exit"
        assert b"".join([piece async for piece in other.files.download_stream("/root/async")]) == b"x"
        async with other.pty(cmd="/bin/sh") as terminal:
            await terminal.write(b"exit 6\n")
            assert [event.exit_code async for event in terminal if event.type == "exit"] == [6]
        assert (await other.git.init("/root/async-repo")).exit_code == 0

    asyncio.run(main())


def main():
    results = {}
    with Capsule(wait=True, **SIZE) as capsule:
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                try:
                    check(capsule)
                    results[name] = ""
                except Exception:  # noqa: BLE001 - every step is reported
                    results[name] = traceback.format_exc()
    print(json.dumps(results))


sys.exit(main())
