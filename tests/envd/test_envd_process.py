"""`process.Process` as the contract has it."""

from __future__ import annotations

import base64
import json
import os
import struct
import time
from pathlib import Path

import pytest
from guest_kit import Envd, Outcome, basic, pack

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run as another user")


def wait_until_gone(pid: int, *, deadline_s: float = 5.0) -> None:
    limit = time.monotonic() + deadline_s
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < limit, f"process {pid} still lives"
        time.sleep(0.01)


def test_events_come_as_start_data_end(envd: Envd) -> None:
    outcome = envd.shell("echo out; echo err >&2")
    assert outcome.events[0] == "start"
    assert outcome.events[-1] == "end"
    assert (outcome.stdout, outcome.stderr) == (b"out\n", b"err\n")
    assert outcome.end == {"exited": True, "status": "exit status 0"}
    assert outcome.error is None


def test_an_exit_code_is_reported(envd: Envd) -> None:
    end = envd.shell("exit 7").end
    assert end is not None
    assert (end["exitCode"], end["exited"], end["status"]) == (7, True, "exit status 7")


def test_a_death_by_signal_is_reported_in_gos_format(envd: Envd) -> None:
    end = envd.shell("kill -9 $$").end
    assert end is not None
    assert end["exitCode"] == -1
    assert not end.get("exited", False)
    assert end["status"] == end["error"] == "signal: killed"


def test_output_is_bytes(envd: Envd) -> None:
    every = bytes(range(256)) * 1000
    outcome = envd.run("python3", "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)")
    assert outcome.stdout == every


def test_output_of_a_process_that_is_quick_is_whole(envd: Envd) -> None:
    for _ in range(50):
        assert envd.shell("echo quick").stdout == b"quick\n"


def test_a_program_that_does_not_exist_is_not_found(envd: Envd) -> None:
    for name in ("/no/such/program", "no-such-program"):
        error = envd.run(name).error
        assert error is not None
        assert error["code"] == "not_found"
        assert name in error["message"]


def test_a_file_that_is_no_program_is_denied(envd: Envd) -> None:
    error = envd.run("/etc/passwd").error
    assert error is not None
    assert error["code"] == "permission_denied"


def test_a_missing_directory_is_an_invalid_argument(envd: Envd) -> None:
    error = envd.run("true", cwd="/no/such").error
    assert error is not None
    assert error["code"] == "invalid_argument"
    assert "/no/such" in error["message"]


def test_an_unknown_user_is_unauthenticated(envd: Envd) -> None:
    error = envd.run("true", headers=basic("nobody-here")).error
    assert error == {"code": "unauthenticated", "message": "invalid username: 'nobody-here'"}


@needs_root
def test_a_process_runs_as_the_named_user(envd: Envd) -> None:
    script = "id -u; id -g; echo $HOME $USER $LOGNAME $E2B_SANDBOX $A; cat /proc/self/oom_score_adj"
    outcome = envd.shell(script, headers=basic("nobody"), envs={"A": "1"}, cwd="/")
    uid, gid, names, score = outcome.stdout.decode().splitlines()
    assert uid == gid == "65534"
    assert names.split()[1:] == ["nobody", "nobody", "true", "1"]
    assert score == "100"


def test_a_process_has_a_session_and_a_group_of_its_own(envd: Envd) -> None:
    outcome = envd.run("python3", "-c", "import os; print(os.getpid(), os.getsid(0), os.getpgrp())")
    assert set(outcome.stdout.split()) == {str(outcome.pid).encode()}


def test_the_list_holds_what_lives_and_nothing_else(envd: Envd) -> None:
    stream = envd.start("sleep", "60", more={"tag": "sleeper"})
    pid = stream.next()["event"]["start"]["pid"]
    (listed,) = envd.call("process.Process/List").json()["processes"]
    assert (listed["pid"], listed["tag"], listed["config"]["cmd"]) == (pid, "sleeper", "sleep")
    assert (
        envd.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}).status
        == 200
    )
    assert stream.finish().end is not None
    assert envd.pids() == []


def test_a_process_is_found_by_tag_among_others(envd: Envd) -> None:
    streams = [envd.start("sleep", "60", more={"tag": f"t{n}"}) for n in range(5)]
    pids = [s.next()["event"]["start"]["pid"] for s in streams]
    for n, pid in enumerate(pids):
        follower = envd.stream("process.Process/Connect", {"process": {"tag": f"t{n}"}})
        assert follower.next()["event"]["start"]["pid"] == pid
        follower.close()
        selector = {"process": {"tag": f"t{n}"}, "signal": "SIGNAL_SIGTERM"}
        assert envd.call("process.Process/SendSignal", selector).status == 200
    for stream in streams:
        end = stream.finish().end
        assert end is not None
        assert end["status"] == "signal: terminated"


def test_a_process_outlives_its_client_and_never_blocks_on_a_full_pipe(envd: Envd, tmp_path: Path) -> None:
    mark = tmp_path / "done"
    stream = envd.start(
        "/bin/sh", "-c", f"head -c 3000000 /dev/zero; sleep 0.3; head -c 3000000 /dev/zero; touch {mark}"
    )
    stream.next()
    stream.close()
    limit = time.monotonic() + 10
    while not mark.exists():
        assert time.monotonic() < limit, "the process hangs on its pipe"
        time.sleep(0.02)


def test_a_slow_reader_gets_every_byte(envd: Envd) -> None:
    stream = envd.start("head", "-c", "20000000", "/dev/zero")
    outcome = Outcome()
    outcome.take(stream.next()["event"])
    time.sleep(0.5)
    assert len(stream.finish(outcome).stdout) == 20_000_000


def test_a_late_connect_finds_the_result(envd: Envd) -> None:
    pid = envd.shell("exit 3").pid
    outcome = envd.stream("process.Process/Connect", {"process": {"pid": pid}}).finish()
    assert outcome.events == ["start", "end"]
    assert outcome.end is not None
    assert outcome.end["exitCode"] == 3


def test_the_end_waits_for_a_child_that_holds_the_output(envd: Envd) -> None:
    outcome = envd.shell("(sleep 0.4; echo late) & echo early")
    assert outcome.stdout == b"early\nlate\n"


def test_a_signal_releases_the_wait_for_the_output(envd: Envd) -> None:
    stream = envd.start("/bin/sh", "-c", "setsid sleep 30 & sleep 30")
    pid = stream.next()["event"]["start"]["pid"]
    time.sleep(0.2)
    began = time.monotonic()
    envd.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
    assert stream.finish().end is not None
    assert time.monotonic() - began < 5


def test_a_timeout_kills_the_whole_family(envd: Envd) -> None:
    script = "setsid sleep 61 & echo $!; sleep 62 & echo $!; sleep 63"
    began = time.monotonic()
    outcome = envd.shell(script, headers={"Connect-Timeout-Ms": "400"})
    assert 0.3 < time.monotonic() - began < 5
    assert outcome.error is not None
    assert outcome.error["code"] == "deadline_exceeded"
    for pid in map(int, outcome.stdout.split()):
        wait_until_gone(pid)
    assert envd.pids() == []


def test_the_time_of_a_connect_ends_only_its_stream(envd: Envd) -> None:
    stream = envd.start("sleep", "60")
    pid = stream.next()["event"]["start"]["pid"]
    headers = {"Connect-Timeout-Ms": "200"}
    outcome = envd.stream("process.Process/Connect", {"process": {"pid": pid}}, headers).finish()
    assert outcome.error is not None
    assert outcome.error["code"] == "deadline_exceeded"
    assert envd.pids() == [pid]
    stream.close()


def test_keepalives_come_in_silence(envd: Envd) -> None:
    outcome = envd.shell("sleep 2.5", headers={"Keepalive-Ping-Interval": "1"})
    assert outcome.events.count("keepalive") == 2


def test_input_is_written_and_closed(envd: Envd) -> None:
    stream = envd.start("cat", more={"stdin": True})
    pid = stream.next()["event"]["start"]["pid"]
    data = base64.b64encode(b"one\n").decode()
    message = {"process": {"pid": pid}, "input": {"stdin": data}}
    assert envd.call("process.Process/SendInput", message).status == 200
    assert envd.call("process.Process/CloseStdin", {"process": {"pid": pid}}).status == 200
    assert stream.finish().stdout == b"one\n"


def test_streamed_input_keeps_its_order(envd: Envd) -> None:
    stream = envd.start("cat", more={"stdin": True})
    pid = stream.next()["event"]["start"]["pid"]
    parts = [b"%d\n" % n for n in range(500)]
    body = pack({"start": {"process": {"pid": pid}}}) + pack({"keepalive": {}})
    for part in parts:
        body += pack({"data": {"input": {"stdin": base64.b64encode(part).decode()}}})
    answer = envd.request(
        "POST",
        "/process.Process/StreamInput",
        body=iter([body[:100], body[100:]]),
        headers={"Content-Type": "application/connect+json"},
    )
    flags, length = struct.unpack(">BI", answer.body[:5])
    assert (flags, length) == (0, 2)
    assert answer.body[7:8] == b"\x02"
    envd.call("process.Process/CloseStdin", {"process": {"pid": pid}})
    assert stream.finish().stdout == b"".join(parts)


def test_input_to_a_process_without_stdin_is_an_error(envd: Envd) -> None:
    stream = envd.start("sleep", "60")
    pid = stream.next()["event"]["start"]["pid"]
    answer = envd.call("process.Process/SendInput", {"process": {"pid": pid}, "input": {"stdin": "YQ=="}})
    assert answer.json()["code"] == "internal"
    stream.close()


def test_a_terminal_is_a_terminal_and_can_be_resized(envd: Envd) -> None:
    script = "tty; stty size; read x; stty size; echo $x"
    stream = envd.start("/bin/sh", "-c", script, more={"pty": {"size": {"cols": 80, "rows": 24}}})
    outcome = Outcome()
    while b"24 80" not in outcome.pty:
        outcome.take(stream.next()["event"])
    selector = {"process": {"pid": outcome.pid}}
    assert (
        envd.call("process.Process/Update", selector | {"pty": {"size": {"cols": 132, "rows": 43}}}).status
        == 200
    )
    data = base64.b64encode(b"hello\n").decode()
    assert envd.call("process.Process/SendInput", selector | {"input": {"pty": data}}).status == 200
    stream.finish(outcome)
    assert b"/dev/pts/" in outcome.pty
    assert b"43 132" in outcome.pty
    assert outcome.end is not None


def test_closing_the_input_of_a_terminal_is_refused(envd: Envd) -> None:
    stream = envd.start("sleep", "60", more={"pty": {"size": {"cols": 80, "rows": 24}}})
    pid = stream.next()["event"]["start"]["pid"]
    assert envd.call("process.Process/CloseStdin", {"process": {"pid": pid}}).status == 400
    stream.close()


@pytest.mark.parametrize("method", ["SendSignal", "SendInput", "Update", "CloseStdin"])
def test_an_unknown_process_is_not_found(envd: Envd, method: str) -> None:
    message = {"process": {"pid": 4_000_000}, "signal": "SIGNAL_SIGKILL", "input": {"stdin": ""}}
    answer = envd.call(f"process.Process/{method}", message)
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


def test_an_unknown_signal_is_unimplemented(envd: Envd) -> None:
    answer = envd.call("process.Process/SendSignal", {"process": {"pid": 1}, "signal": "SIGNAL_UNSPECIFIED"})
    assert (answer.status, answer.json()["code"]) == (501, "unimplemented")
    # SendSignalRequest{process{pid: 1}, signal: 4}
    body, headers = bytes.fromhex("0a020801 1004"), {"Content-Type": "application/proto"}
    assert envd.request("POST", "/process.Process/SendSignal", body=body, headers=headers).status == 501


def test_malformed_messages_are_invalid_arguments(envd: Envd) -> None:
    headers = {"Content-Type": "application/json"}
    assert envd.request("POST", "/process.Process/List", body=b"{", headers=headers).status == 400
    assert (
        envd.request("POST", "/process.Process/List", body=b"{}", headers={"Content-Type": "text/x"}).status
        == 415
    )
    assert envd.call("process.Process/NoSuchMethod").status == 501


def test_a_message_over_the_limit_is_refused(envd: Envd) -> None:
    body = json.dumps({"process": {"cmd": "x" * (5 << 20)}}).encode()
    answer = envd.request(
        "POST", "/process.Process/List", body=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status, answer.json()["code"]) == (429, "resource_exhausted")


def test_the_binary_codec_says_the_same(envd: Envd) -> None:
    # StartRequest{process{cmd: "true"}, stdin: false}
    message = bytes.fromhex("0a06") + b"\x0a\x04true" + bytes.fromhex("2000")
    body = struct.pack(">BI", 0, len(message)) + message
    answer = envd.request(
        "POST", "/process.Process/Start", body=body, headers={"Content-Type": "application/connect+proto"}
    )
    assert answer.headers["content-type"] == "application/connect+proto"
    assert b"exit status 0" in answer.body
    assert answer.body.endswith(b"\x02\x00\x00\x00\x02{}")


def test_many_processes_at_once_all_end_with_their_own_code(envd: Envd) -> None:
    streams = [envd.start("/bin/sh", "-c", f"exit {n}") for n in range(100)]
    for n, stream in enumerate(streams):
        end = stream.finish().end
        assert end is not None
        assert end.get("exitCode", 0) == n


def test_no_zombies_and_no_descriptors_are_left(envd: Envd) -> None:
    envd.shell("true")
    fds = Path(f"/proc/{envd.process.pid}/fd")
    before = len(list(fds.iterdir()))
    for _ in range(30):
        envd.shell("true & true")
        envd.run("/no/such")
    time.sleep(0.1)
    assert len(list(fds.iterdir())) <= before + 1
    children = Path(f"/proc/{envd.process.pid}/task/{envd.process.pid}/children").read_text().split()
    assert children == []


def test_a_follower_who_asks_for_it_gets_what_was_said_before(envd: Envd, place: Path) -> None:
    go = place / "go"
    script = f"echo one; echo two >&2; while [ ! -e {go} ]; do sleep 0.02; done; echo three"
    started = envd.start("/bin/sh", "-c", script, more={"tag": "job"})
    assert started.next()["event"]["start"]["pid"]
    for _ in range(2):
        started.next()
    started.close()
    replaying = envd.stream("process.Process/Connect", {"process": {"tag": "job"}, "replay": True})
    assert replaying.next()["event"]["start"]["replayed"] == "8"
    plain = envd.stream("process.Process/Connect", {"process": {"tag": "job"}})
    assert set(plain.next()["event"]["start"]) == {"pid"}, "others see no change"
    go.touch()
    both = replaying.finish()
    assert (both.stdout, both.stderr) == (b"one\nthree\n", b"two\n")
    assert plain.finish().stdout == b"three\n"
    # Nobody had followed it from its start to its end, so a late one gets it too.
    late = envd.stream("process.Process/Connect", {"process": {"tag": "job"}, "replay": True}).finish()
    assert (late.stdout, late.stderr) == (b"one\nthree\n", b"two\n")


def test_the_last_mebibyte_is_buffered_and_the_rest_counted(envd: Envd) -> None:
    code = "import sys, time; sys.stdout.write('x' * 3000000 + 'end'); sys.stdout.flush(); time.sleep(60)"
    started = envd.start("python3", "-c", code)
    pid = started.next()["event"]["start"]["pid"]
    started.close()
    limit = time.monotonic() + 20
    while True:
        follower = envd.stream("process.Process/Connect", {"process": {"pid": pid}, "replay": True})
        begun = follower.next()["event"]["start"]
        kept, missed = int(begun.get("replayed", 0)), int(begun.get("missed", 0))
        if kept + missed == 3_000_003:
            break
        follower.close()
        assert time.monotonic() < limit
    assert kept == 1024 * 1024
    assert (
        envd.call("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}).status
        == 200
    )
    outcome = follower.finish()
    assert len(outcome.stdout) == kept
    assert outcome.stdout.endswith(b"xend")


def test_output_that_was_read_to_the_end_is_not_buffered(envd: Envd) -> None:
    pid = envd.shell("echo said").pid
    late = envd.stream("process.Process/Connect", {"process": {"pid": pid}, "replay": True}).finish()
    assert late.stdout == b""
    assert late.end is not None


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_every_signal_of_the_contract_arrives(envd: Envd, name: str) -> None:
    script = f"trap 'echo got; exit 3' {name[3:]}; echo ready; while :; do sleep 0.02; done"
    stream = envd.start("/bin/sh", "-c", script)
    pid = stream.next()["event"]["start"]["pid"]
    stream.next()
    signal = {"process": {"pid": pid}, "signal": f"SIGNAL_{name}"}
    assert envd.call("process.Process/SendSignal", signal).status == 200
    outcome = stream.finish()
    assert outcome.stdout.endswith(b"got\n")
    assert outcome.end is not None
    assert outcome.end["exitCode"] == 3


def test_a_kill_may_mean_all_that_came_of_a_process(envd: Envd) -> None:
    stream = envd.start("/bin/sh", "-c", "setsid sleep 4712 & echo $!; wait")
    pid = stream.next()["event"]["start"]["pid"]
    child = int(base64.b64decode(stream.next()["event"]["data"]["stdout"]))
    signal = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL", "descendants": True}
    assert envd.call("process.Process/SendSignal", signal).status == 200
    stream.finish()
    wait_until_gone(child)


def test_text_is_utf_8_unless_the_request_says_otherwise(envd: Envd) -> None:
    expected = os.environ.get("LANG", "C.UTF-8").encode()
    assert envd.shell("printf %s $LANG").stdout == expected
    assert envd.shell("printf %s $LANG", envs={"LANG": "POSIX"}).stdout == b"POSIX"


DRAINED = {"drainMs": 100}
"""What our own agent asks for: the end of the process is the end of its stream."""


def test_the_end_does_not_wait_for_a_background_child_when_the_starter_asks_so(
    envd: Envd, place: Path
) -> None:
    go, done = place / "go", place / "done"
    child = f"while [ ! -e {go} ]; do sleep 0.02; done; echo late && echo late >&2 && touch {done}"
    outcome = envd.shell(f"({child}) & echo $!; exit 4", more=DRAINED)
    assert outcome.end is not None
    assert outcome.end["exitCode"] == 4
    pid = int(outcome.stdout)
    assert Path(f"/proc/{pid}").exists(), "the child lives on"
    go.touch()
    wait_until_gone(pid)
    assert done.exists(), "what it writes later neither kills it nor holds it up"


def test_a_child_in_a_session_of_its_own_lives_on(envd: Envd) -> None:
    outcome = envd.shell("setsid sleep 4713 & echo $!", more=DRAINED)
    assert outcome.end == {"exited": True, "status": "exit status 0"}
    pid = int(outcome.stdout)
    os.kill(pid, 9)
    wait_until_gone(pid)


def test_a_child_that_never_stops_writing_does_not_hold_the_end_up(envd: Envd) -> None:
    outcome = envd.shell("yes & echo $! >&2", more=DRAINED)
    assert outcome.end is not None
    os.kill(int(outcome.stderr), 9)


def test_what_is_written_just_before_the_end_is_drained(envd: Envd) -> None:
    outcome = envd.shell("sleep 60 & echo $! >&2; head -c 1000000 /dev/zero", more=DRAINED)
    assert len(outcome.stdout) == 1_000_000
    os.kill(int(outcome.stderr), 9)


def test_a_terminal_ends_with_its_shell_and_its_child_lives_on(envd: Envd) -> None:
    shell = ["/bin/sh", "-c", "sleep 4714 & echo $!"]
    terminal = {"pty": {"size": {"cols": 80, "rows": 24}}}
    outcome = envd.run(*shell, more={**terminal, **DRAINED})
    assert outcome.end is not None
    pid = int(outcome.pty)
    os.kill(pid, 9)
    wait_until_gone(pid)


def test_the_signal_that_ended_a_process_is_reported_as_a_number(envd: Envd) -> None:
    end = envd.shell("kill -TERM $$").end
    assert end is not None
    assert (end["signal"], end["exitCode"]) == (15, -1)


def test_unread_results_are_limited_in_number_and_the_oldest_are_dropped(envd: Envd) -> None:
    # Each is left before it writes, so that nobody is given its end.
    pids = list[int]()
    for n in range(258):
        stream = envd.start("/bin/sh", "-c", f"read -r _; echo {n}", more={"stdin": True, **DRAINED})
        pids.append(stream.next()["event"]["start"]["pid"])
        stream.close()
    for pid in pids:
        assert envd.call("process.Process/CloseStdin", {"process": {"pid": pid}}).status == 200
        wait_until_gone(pid)
    replay = [{"process": {"pid": pid}, "replay": True} for pid in pids]
    assert envd.stream("process.Process/Connect", replay[-1]).finish().stdout == b"257\n"
    assert envd.stream("process.Process/Connect", replay[-1]).finish().stdout == b"257\n", "for a while"
    assert envd.stream("process.Process/Connect", replay[2]).finish().stdout == b"2\n"
    gone = envd.stream("process.Process/Connect", replay[0]).finish()
    assert gone.error is not None
    assert gone.error["code"] == "not_found"


def test_the_list_of_processes_is_bounded_however_long_their_commands_are(envd: Envd) -> None:
    streams = [
        envd.start("/bin/sleep", "60", envs={"LONG": "v" * 50_000}) if n == 0 else
        envd.start("/bin/sh", "-c", "sleep 60", "x" * 100_000)
        for n in range(50)
    ]  # fmt: skip
    answer = envd.call("process.Process/List")
    processes = answer.json()["processes"]
    assert len(processes) == 50
    assert len(answer.body) < 2 * 1024 * 1024
    assert sorted(p["config"]["cmd"] for p in processes) == ["/bin/sh"] * 49 + ["/bin/sleep"]
    assert all(p["config"]["args"][:2] in (["60"], ["-c", "sleep 60"]) for p in processes)
    for stream, process in zip(streams, processes, strict=True):
        envd.call(
            "process.Process/SendSignal", {"process": {"pid": process["pid"]}, "signal": "SIGNAL_SIGKILL"}
        )
        stream.close()
