"""`wrenn agent`: serves the host API over mutual TLS until SIGTERM or SIGINT."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import uvicorn
import uvloop

from wrenn.agent.host_metrics import HostMetrics
from wrenn.agent.parts import Host
from wrenn.agent.rpc.app import App
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import running_agent
from wrenn.base.descriptors import raise_descriptor_limit
from wrenn.base.errors import WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.gc_tuning import freeze_gc
from wrenn.base.logging import configure_logging
from wrenn.base.signals import leave_signals_to_uvicorn
from wrenn.base.stack_dumps import dump_stacks_on_signal, limit_end
from wrenn.base.tasks import OwnedTasks
from wrenn.relay import SERVER_OPTIONS
from wrenn.telemetry import Metrics, RequestMetrics, serving_metrics

_GRACE_S = 5
"""How long calls in flight may go on at shutdown."""
_END_LIMIT_S = 30
"""How long the clean-up may take after that."""


def server_config(app: App | RequestMetrics, pki: Path, settings: Settings) -> uvicorn.Config:
    """Return the server configuration: mutual TLS with the internal CA in `pki`."""
    config = uvicorn.Config(
        app,
        host=settings.listen_host,
        port=settings.listen_port,
        ssl_certfile=pki / "agent.pem",
        ssl_keyfile=pki / "agent.key",
        ssl_ca_certs=str(pki / "ca.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        # What a guest answers has its own date.
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_S,
        **SERVER_OPTIONS,
    )
    config.load()
    assert config.ssl is not None, "TLS was asked for"
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


async def serve(settings: Settings, host: Host | None = None) -> None:
    """Serve until SIGTERM or SIGINT; sandboxes keep running afterwards. Tests may pass another `host` than this machine."""
    dump_stacks_on_signal()
    metrics = Metrics()
    async with running_agent(settings, host) as agent, serving_metrics(metrics, settings.metrics):
        HostMetrics(metrics, data_dir=settings.data_dir, sandboxes=agent.sandboxes)
        app = RequestMetrics(agent.app, metrics, "wrenn_agent", agent.app.route_of)
        config = server_config(app, agent.layout.pki, settings)
        # Its clean-up gives the free network slots back.
        leave_signals_to_uvicorn()
        freeze_gc()
        tasks = OwnedTasks()
        tasks.start("warm up", agent.warm_up.run())
        try:
            await uvicorn.Server(config).serve()
        finally:
            limit_end(_END_LIMIT_S)
            await tasks.close()


def main(host: Host | None = None) -> None:
    """Entry point; exits with 1 and a one-sentence message if the agent cannot start."""
    configure_logging()
    raise_descriptor_limit()
    settings = Settings.from_environment()
    arm_faults(settings.faults)
    try:
        uvloop.run(serve(settings, host))
    except WrennError as error:
        sys.exit(f"wrenn agent: {error.message}")
