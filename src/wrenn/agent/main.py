"""`wrenn agent`: serve the host API over mutual TLS until told to stop."""

from __future__ import annotations

import ssl
import sys

import uvicorn
import uvloop

from wrenn.agent.settings import Settings
from wrenn.agent.wiring import running_agent
from wrenn.base.descriptors import raise_descriptor_limit
from wrenn.base.errors import WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.logging import configure_logging
from wrenn.base.signals import leave_to_server
from wrenn.relay import MESSAGE_LIMIT_B, BoundedHttp, BoundedSocket

_GRACE_S = 5
"""How long calls in flight may go on at shutdown."""

_PONG_TIMEOUT_S = 300.0
"""A pong comes behind all that its sender has still to take, and is not read while input waits for a process."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Sandboxes run on."""
    async with running_agent(settings) as agent:
        pki = agent.layout.pki
        config = uvicorn.Config(
            agent.app,
            host=settings.listen_host,
            port=settings.listen_port,
            ssl_certfile=pki / "agent.pem",
            ssl_keyfile=pki / "agent.key",
            ssl_ca_certs=str(pki / "ca.pem"),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            http=BoundedHttp,
            ws=BoundedSocket,
            lifespan="off",
            access_log=False,
            log_config=None,
            # What a guest answers has headers of its own, and its own date.
            server_header=False,
            date_header=False,
            # `X-Forwarded-*` is what the control plane says to guests, not to us.
            proxy_headers=False,
            # Between this machine's programs it would cost more than it saves, and memory for each connection.
            ws_per_message_deflate=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            ws_max_size=MESSAGE_LIMIT_B,
            ws_ping_timeout=_PONG_TIMEOUT_S,
        )
        config.load()
        assert config.ssl is not None, "TLS was asked for"
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        # Its clean-up gives the free network slots back.
        leave_to_server()
        await uvicorn.Server(config).serve()


def main() -> None:
    """Entry point; exits with 1 and one sentence when it cannot start."""
    configure_logging()
    raise_descriptor_limit()
    settings = Settings.from_environment()
    arm_faults(settings.faults)
    try:
        uvloop.run(serve(settings))
    except WrennError as error:
        sys.exit(f"wrenn agent: {error.message}")
