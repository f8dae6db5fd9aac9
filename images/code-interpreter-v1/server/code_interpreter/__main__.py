"""The program: `python3 -m code_interpreter [--port N] [--address A] [--cwd D]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from tornado.httpserver import HTTPServer

from code_interpreter.app import application
from code_interpreter.contexts import Contexts

_BODY_LIMIT_B = 16 << 20
_STARTED_AT_ONCE = ("python", "javascript")


async def _serve(address: str, port: int, cwd: str) -> None:
    contexts = Contexts(default_cwd=cwd)
    server = HTTPServer(application(contexts), max_body_size=_BODY_LIMIT_B, max_buffer_size=2 * _BODY_LIMIT_B)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        # Before the port answers: who sees the server ready finds its first contexts ready too.
        for language in _STARTED_AT_ONCE:
            try:
                await contexts.default(language)
            except Exception:
                logging.exception("the context for %s does not start", language)
        server.listen(port, address)
        await stopped.wait()
    finally:
        server.stop()
        await contexts.close()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="code_interpreter")
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, default=49999)
    parser.add_argument("--cwd", default="/home/user", help="working directory of contexts that name none")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It reports what is passed on to the client too.
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    asyncio.run(_serve(arguments.address, arguments.port, arguments.cwd))


if __name__ == "__main__":
    main()
