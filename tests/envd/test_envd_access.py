"""Who is let in, `/init`, and the small endpoints."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from pathlib import Path

from guest_kit import Envd, Json, binary


def init(envd: Envd, **body: object) -> int:
    return envd.request("POST", "/init", body=json.dumps(body).encode()).status


def test_health_is_free_and_empty(envd: Envd) -> None:
    init(envd, accessToken="t")
    answer = envd.request("GET", "/health")
    assert (answer.status, answer.body) == (204, b"")


def test_without_the_token_nothing_else_is_answered(envd: Envd) -> None:
    assert init(envd, accessToken="t") == 204
    for method, path in [
        ("GET", "/metrics"), ("GET", "/envs"), ("POST", "/process.Process/List"), ("POST", "/snapshot/prepare"), ("POST", "/snapshot/finish"),
        ("POST", "/filesystem.Filesystem/Stat"), ("GET", "/files?path=/etc/passwd"), ("GET", "/nowhere"),
    ]:  # fmt: skip
        answer = envd.request(method, path, body=b"{}" if method == "POST" else None)
        assert (path, answer.status, answer.json()["code"]) == (path, 401, 401)
    envd.token = "t"
    assert envd.request("GET", "/metrics").status == 200
    envd.token = "wrong"
    assert envd.request("GET", "/metrics").status == 401


def test_a_second_init_needs_the_token_of_the_first(envd: Envd) -> None:
    assert init(envd, accessToken="one") == 204
    assert init(envd, accessToken="stolen") == 401
    envd.token = "one"
    assert init(envd, accessToken="one") == 204
    assert init(envd, accessToken="two") == 204
    assert init(envd, accessToken="one") == 401


def test_init_sets_variables_user_and_directory(envd: Envd, place: Path) -> None:
    body: Json = {"envVars": {"A": "1", "B": "2"}, "defaultUser": "root", "defaultWorkdir": str(place)}
    assert init(envd, **body, timestamp="2026-01-01T00:00:00.5Z", volumeMounts=[], later={"x": 1}) == 204
    assert envd.shell("echo $A $B $C; pwd", envs={"B": "3", "C": "4"}).stdout.decode().split() == [
        "1", "3", "4", str(place),
    ]  # fmt: skip
    assert envd.request("GET", "/envs").json() == {"A": "1", "B": "2", "E2B_SANDBOX": "true"}


def test_a_bad_init_changes_nothing(envd: Envd) -> None:
    for body in (
        {"machineId": "x"},
        {"entropy": "AA=="},
        {"timestamp": "no"},
        {"hostname": "a b"},
        {"envVars": 7},
    ):
        assert init(envd, **{"accessToken": "t"} | body) == 400
    assert envd.request("GET", "/envs").status == 200


def test_metrics_describe_the_machine(envd: Envd) -> None:
    metrics = envd.request("GET", "/metrics").json()
    names = {
        "ts",
        "cpu_count",
        "cpu_used_pct",
        "mem_total",
        "mem_used",
        "mem_cache",
        "disk_used",
        "disk_total",
    }
    assert names <= metrics.keys()
    assert 0 < metrics["mem_used"] < metrics["mem_total"]


def test_an_agent_that_is_no_guest_stops_no_program_and_says_so(envd: Envd) -> None:
    for _ in range(2):
        answer = envd.request("POST", "/snapshot/prepare")
        assert (answer.status, answer.json()) == (200, {"frozen": False})


def test_no_program_is_started_between_the_begin_and_the_end_of_a_snapshot(envd: Envd) -> None:
    envd.request("POST", "/snapshot/prepare")
    assert (envd.run("true").error or {})["code"] == "unavailable"
    for _ in range(2):
        assert envd.request("POST", "/snapshot/finish").status == 204
    assert (envd.run("true").end or {})["exited"]
    envd.request("POST", "/snapshot/prepare")
    assert init(envd) == 204, "a restored guest gets no finish"
    assert (envd.run("true").end or {})["exited"]


def test_what_is_not_there_is_404_and_a_wrong_method_405(envd: Envd) -> None:
    assert envd.request("GET", "/nowhere").status == 404
    assert envd.request("DELETE", "/files").status == 405


def test_one_connection_serves_many_requests(envd: Envd) -> None:
    connection = http.client.HTTPConnection(envd.host, envd.port, timeout=10)
    for _ in range(200):
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        assert response.status == 204
    connection.close()


def test_nonsense_on_the_wire_hurts_nobody(envd: Envd) -> None:
    for data in (
        b"\x00\xff" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /files HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with socket.create_connection((envd.host, envd.port), timeout=5) as raw:
            raw.sendall(data)
            raw.recv(1000)
    with socket.create_connection((envd.host, envd.port), timeout=5) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nX: " + b"x" * 200_000)
        assert b" 431 " in raw.recv(1000)
    assert envd.request("GET", "/health").status == 204


def test_the_513th_connection_is_closed_and_a_free_place_is_used_again(envd: Envd) -> None:
    held = [socket.create_connection((envd.host, envd.port), timeout=5) for _ in range(512)]
    with socket.create_connection((envd.host, envd.port), timeout=5) as one_more:
        assert one_more.recv(10) == b""
    for connection in held:
        connection.close()
    for _ in range(50):
        try:
            assert envd.request("GET", "/health").status == 204
            break
        except (ConnectionError, http.client.RemoteDisconnected):
            continue


def test_an_idle_agent_is_small(envd: Envd) -> None:
    envd.shell("true")
    status = Path(f"/proc/{envd.process.pid}/status").read_text()
    (resident,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(resident) < 6 * 1024


def test_the_binary_needs_no_library() -> None:
    program = binary().read_bytes()
    assert program[:4] == b"\x7fELF"
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    kinds = [struct.unpack_from("<I", program, table + n * size)[0] for n in range(count)]
    interpreter = 3
    assert interpreter not in kinds
