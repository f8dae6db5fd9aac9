"""Hostile programs for a guest, as Python source.

`HOSTILE_SERVER` runs as `python3 server.py MODE PORT` and serves a port badly. `HOSTILE_AGENT` runs as
`python3 agent.py MODE`, as root: it takes the guest's network interface away from the real guest agent and serves the
guest agent's port itself.
"""

from __future__ import annotations

from typing import Final

HOSTILE_SERVER: Final = r"""
import base64, hashlib, socket, sys, threading

mode, port = sys.argv[1], int(sys.argv[2])
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


def frame(opcode, data=b"", final=True):
    assert len(data) < 126
    return bytes([(128 if final else 0) | opcode, len(data)]) + data


# What is sent once, and what is sent again and again after it.
PLANS = {
    "informational": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "early-hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "headers": (OK, b"X-A: b\r\n"),
    "header-without-end": (OK + b"X-A: ", b"b" * 1024),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunk-extensions": (CHUNKED + b"1", b";a=b"),
    "trailers": (CHUNKED + b"0\r\n", b"X-A: b\r\n"),
    "body": (OK + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 1024),
    "pings": (None, frame(9, b"ping")),
    "pongs": (None, frame(10, b"pong")),
    "empty-messages": (None, frame(1)),
    "fragments": (None, frame(0, b"", final=False)),
    "messages": (None, frame(2, b"x" * 125)),
}
first, again = PLANS[mode]
flood = again * max(1, 65536 // len(again))


def serve(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            return
        head += piece
    if first is None:
        key = next(line.split(b":", 1)[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        if mode == "fragments":
            connection.sendall(frame(1, b"", final=False))
    else:
        connection.sendall(first)
    while True:
        connection.sendall(flood)


def attempt(connection):
    try:
        serve(connection)
    except OSError:
        pass


server = socket.create_server(("0.0.0.0", port), backlog=64)
while True:
    threading.Thread(target=attempt, args=(server.accept()[0],), daemon=True).start()
"""

HOSTILE_AGENT: Final = r"""
import ctypes, os, socket, subprocess, sys, threading

mode = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
reading, writing = os.pipe()
here = str(os.getpid())
if os.fork() == 0:
    os.read(reading, 1)  # until the parent is in its own network namespace
    subprocess.run(["ip", "link", "set", "eth0", "netns", here], check=True)
    os._exit(0)
assert libc.unshare(0x40000000) == 0, "a network namespace of our own"
os.write(writing, b"x")
os.wait()
for words in (
    "link set lo up", "addr add 169.254.0.21/30 dev eth0", "link set eth0 up", "route add default via 169.254.0.22",
):
    subprocess.run(["ip", *words.split()], check=True)

OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: application/connect+proto\r\nTransfer-Encoding: chunked\r\n\r\n"
EMPTY = b"\0\0\0\0\0"
STARTED = b"\0\0\0\0\6\n\4\n\2\x08\x07"
BYTES = b"\0\0\0\0\7\n\5\x12\3\n\1a" + b"\0\0\0\0\7\n\5\x12\3\x12\1b"  # of stdout, then of stderr
MANY = b"\n\0" * 2_097_000
PLANS = {
    "empty-frames": (STREAM, b"5000\r\n" + EMPTY * 0x1000 + b"\r\n"),
    "small-frames": (STREAM, b"e\r\n" + EMPTY + b"\0\0\0\0\x04\x0a\x02\x22\x00" + b"\r\n"),
    "informational": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (OK + b"Content-Type: application/proto\r\nContent-Length: 1000000000000\r\n\r\n", b"x" * 1024),
    "single-bytes": (STREAM + b"b\r\n" + STARTED + b"\r\n", b"%x\r\n" % (len(BYTES) * 3000) + BYTES * 3000 + b"\r\n"),
    "long-lists": (OK + b"Content-Type: application/proto\r\nContent-Length: %d\r\n\r\n" % len(MANY) + MANY, b""),
    "deep-json": (b"HTTP/1.1 500 x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000, b""),
    "silence": (b"", b""),
}
first, again = PLANS[mode]
flood = again * max(1, 65536 // max(1, len(again)))


def serve(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            return
        head += piece
    connection.sendall(first)
    while flood:
        connection.sendall(flood)
    while connection.recv(65536):
        pass


def attempt(connection):
    try:
        serve(connection)
    except OSError:
        pass


server = socket.create_server(("0.0.0.0", 49983), backlog=64)
while True:
    threading.Thread(target=attempt, args=(server.accept()[0],), daemon=True).start()
"""
