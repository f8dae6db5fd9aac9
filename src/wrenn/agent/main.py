"""`wrenn agent`: serves the host API over mutual TLS until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial

import uvicorn
import uvloop

from wrenn.agent.data_folder import data_folder_held
from wrenn.agent.enrolment import (
    ControlLink,
    Credentials,
    CredentialsFile,
    NotRegistered,
    ServerTls,
    enrolled,
)
from wrenn.agent.host_metrics import HostMetrics
from wrenn.agent.local_api import serving_locally
from wrenn.agent.parts import Host
from wrenn.agent.rpc.app import App
from wrenn.agent.sandboxes.remove_everything import remove_everything
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import agent_in_held_folder, control_link
from wrenn.base.clock import SystemClock
from wrenn.base.descriptors import raise_descriptor_limit
from wrenn.base.errors import WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.gc_tuning import freeze_gc
from wrenn.base.ids import ImageId
from wrenn.base.logging import configure_logging
from wrenn.base.signals import leave_signals_to_uvicorn
from wrenn.base.stack_dumps import dump_stacks_on_signal, limit_end
from wrenn.base.tasks import OwnedTasks
from wrenn.relay import SERVER_OPTIONS
from wrenn.telemetry import Metrics, RequestMetrics, serving_metrics

_GRACE_S = 5
"""How long calls in flight may go on at shutdown."""
_LAST_SAMPLES_S = 3.0
"""How long the control plane may take for the last samples; what it has not taken then is sent by the next agent."""
_END_LIMIT_S = 30
"""How long the clean-up may take after that."""
_REMOVAL_LIMIT_S = 300
"""How long a deleted host may take for each of the things that it removes: nobody else would ever remove them."""


def server_config(app: App | RequestMetrics, tls: ssl.SSLContext, settings: Settings) -> uvicorn.Config:
    """Return the server configuration, with mutual TLS."""
    config = uvicorn.Config(
        app,
        host=settings.listen_host,
        port=settings.listen_port,
        # What a guest answers has its own date.
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_S,
        **SERVER_OPTIONS,
    )
    config.load()
    config.ssl = tls
    return config


async def serve(settings: Settings, host: Host | None = None) -> None:
    """Serve until SIGTERM or SIGINT; sandboxes keep running afterwards. Tests may pass another `host` than this machine.

    When the control plane says that this host was deleted, everything that runs here is removed first.
    """
    dump_stacks_on_signal()
    # Before the registration, which replaces the credentials of an agent that runs.
    with data_folder_held(settings.data_dir):
        await _serve(await enrolled(settings), settings, host)


async def _serve(credentials: Credentials, settings: Settings, host: Host | None) -> None:
    metrics = Metrics()
    async with agent_in_held_folder(settings, host) as agent, serving_metrics(metrics, settings.metrics):
        HostMetrics(metrics, data_dir=settings.data_dir, sandboxes=agent.sandboxes)
        app = RequestMetrics(agent.app, metrics, "wrenn_agent", agent.app.route_of)
        tls = ServerTls(credentials)
        link, loss, sender = control_link(agent, settings, credentials, tls, SystemClock())
        local = serving_locally(agent.app, agent.layout.socket)
        server = _Server(server_config(app, tls.context, settings), local, link)
        # Its clean-up gives the free network slots back.
        leave_signals_to_uvicorn()
        freeze_gc()
        tasks = OwnedTasks()
        tasks.start("warm up", agent.warm_up.run())
        tasks.start("pause without control plane", loss.run())
        tasks.start("send samples of sandboxes", sender.run())
        try:
            await server.serve()
        finally:
            limit_end(_REMOVAL_LIMIT_S if link.deleted.is_set() else _END_LIMIT_S)
            await tasks.close()
            await agent.sampler.close()
            await sender.finish(timeout_s=_LAST_SAMPLES_S)
        if link.deleted.is_set():
            still_working = partial(limit_end, _REMOVAL_LIMIT_S)
            await remove_everything(agent.sandboxes, removed=still_working)
            for image_id in agent.images.ids():
                await agent.images.remove(ImageId.parse(image_id))
                still_working()
            CredentialsFile(settings.data_dir).remove(link.credentials.host_id)


class _Server(uvicorn.Server):
    """While it serves it also serves locally and sends heartbeats. It ends when the host was deleted."""

    def __init__(
        self, config: uvicorn.Config, local: AbstractAsyncContextManager[None], link: ControlLink
    ) -> None:
        super().__init__(config)
        self._local = local
        self._link = link
        self._tasks = OwnedTasks()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. Only then the local socket answers, and the control plane is told that the host is online."""
        await super().startup(sockets)
        self._tasks.start("local API and heartbeats", self._accompany())

    async def _accompany(self) -> None:
        async with self._local:
            await self._link.run()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the local API and the heartbeats, then serving."""
        await self._tasks.close()
        await super().shutdown(sockets)


def main(host: Host | None = None) -> None:
    """Entry point; exits with a one-sentence message if the agent cannot start.

    The code is 78 (`EX_CONFIG` of sysexits.h) if the host is not registered, so that a service manager does not try again,
    otherwise 1.
    """
    configure_logging()
    raise_descriptor_limit()
    settings = Settings.from_environment()
    arm_faults(settings.faults)
    try:
        uvloop.run(serve(settings, host))
    except NotRegistered as error:
        sys.stderr.write(f"wrenn agent: {error.message}\n")
        sys.exit(os.EX_CONFIG)
    except WrennError as error:
        sys.exit(f"wrenn agent: {error.message}")
