"""A server for guests in plain Python: HTTP, events, a WebSocket. `SERVER` is its text, run as `server.py HOST PORT`."""

from __future__ import annotations

from typing import Final

SERVER: Final = r'''
import asyncio, base64, hashlib, json, socket, sys

step = asyncio.Condition()
steps = 0


async def serve(reader, writer):
    try:
        while await answer(reader, writer):
            pass
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def answer(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    target = head[0].split(" ")[1]
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}
    path, _, query = target.partition("?")
    if path == "/socket":
        await web_socket(reader, writer, headers)
        return False
    if path == "/banner":
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nbanner")
        await writer.drain()
        return False
    if path == "/events":
        await events(writer)
        return False
    if path == "/bytes":
        block = bytes(range(256)) * 1024
        size = int(query)
        digest = hashlib.sha256()
        for at in range(0, size, len(block)):
            digest.update(block[: size - at])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Sha256: %s\r\n\r\n" % (size, digest.hexdigest().encode()))
        for at in range(0, size, len(block)):
            writer.write(block[: size - at])
            await writer.drain()
        return True
    left, digest = int(headers.get("content-length", "0")), hashlib.sha256()
    size = left
    while left:
        piece = await reader.read(min(left, 1 << 18))
        left -= len(piece)
        digest.update(piece)
    if path == "/next":
        global steps
        async with step:
            steps += 1
            step.notify_all()
    told = {"target": target, "peer": writer.get_extra_info("peername")[0], "headers": headers}
    if path == "/digest":
        told = {"size": size, "sha256": digest.hexdigest()}
    body = PAGE if path == "/page" else json.dumps(told).encode()
    kind = b"text/html" if path == "/page" else b"application/json"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body))
    await writer.drain()
    return True


async def events(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    seen = steps
    for number in range(1000):
        writer.write(b"data: %d\n\n" % number)
        await writer.drain()
        async with step:
            await step.wait_for(lambda: steps > seen)
            seen = steps


async def web_socket(reader, writer, headers):
    accept = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n" % accept)
    while True:
        first, second = await reader.readexactly(2)
        length = second & 127
        if length > 125:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        mask = await reader.readexactly(4)
        masked = await reader.readexactly(length)
        whole = int.from_bytes(masked, "big") ^ int.from_bytes((mask * (length // 4 + 1))[:length], "big")
        data = whole.to_bytes(length, "big")
        opcode = first & 15
        if opcode == 8:
            writer.write(frame(8, data))
            await writer.drain()
            return
        if opcode == 9:
            writer.write(frame(10, data))
        elif data.startswith(b"close "):
            writer.write(frame(8, int(data[6:]).to_bytes(2, "big")))
        elif opcode in (1, 2):
            writer.write(frame(opcode, data))
        await writer.drain()


def frame(opcode, data):
    size = len(data)
    if size < 126:
        head = bytes([128 | opcode, size])
    elif size < 65536:
        head = bytes([128 | opcode, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([128 | opcode, 127]) + size.to_bytes(8, "big")
    return head + data


PAGE = b"""<!doctype html><title>from inside</title><link rel=icon href=data:,>
<p id=fetched></p><p id=said></p>
<script>
fetch("/echo").then(r => r.json()).then(j => fetched.textContent = j.target);
const ws = new WebSocket(location.origin.replace("http", "ws") + "/socket");
ws.onopen = () => ws.send("hello from the page");
ws.onmessage = e => { said.textContent = e.data; };
</script>"""


async def main(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = await asyncio.start_server(serve, host, port, family=family)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
'''
