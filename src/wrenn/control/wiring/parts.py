"""Builds the features in the order in which they need each other."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.control.builds import (
    BuildCleanup,
    Builds,
    BuildWorker,
    ScratchSpace,
)
from wrenn.control.events import Feed
from wrenn.control.hosts import (
    Monitor,
)
from wrenn.control.http import Rates
from wrenn.control.mail import MailSender
from wrenn.control.oauth import ProviderClient
from wrenn.control.proxy import (
    AccessTokens,
    TrafficTokens,
)
from wrenn.control.registries import RegistryCredentials, Sealing
from wrenn.control.throttle import Throttle
from wrenn.control.users import Passwords

from .accounts import AccountParts, build_accounts, build_mail_sender
from .auth import AuthParts, build_auth
from .base import Base
from .builds import build_builds
from .hosts import HostParts, build_hosts, build_monitor
from .images import ImageParts, build_images
from .ports import PortParts, build_ports
from .sandboxes import SandboxParts, build_sandboxes


@dataclass(frozen=True, slots=True)
class Parts:
    """The built features of the control plane."""

    auth: AuthParts
    monitor: Monitor
    images: ImageParts
    sandboxes: SandboxParts
    ports: PortParts
    builds: Builds
    build_worker: BuildWorker
    build_cleanup: BuildCleanup
    scratch: ScratchSpace
    registry_credentials: RegistryCredentials
    hosts: HostParts
    accounts: AccountParts
    mail_sender: MailSender | None
    feed: Feed
    rates: Rates
    access_tokens: AccessTokens
    traffic_tokens: TrafficTokens


def build_parts(
    base: Base, *, passwords: Passwords, provider_client: ProviderClient, link_key: bytes
) -> Parts:
    """Build all features. `link_key` signs links to ports, the same in all replicas."""
    settings, database = base.settings, base.database
    auth = build_auth(base)
    monitor = build_monitor(base)
    images = build_images(base, auth)
    sandboxes = build_sandboxes(base, auth, monitor, images.images)
    monitor.on_unreachable = sandboxes.comparison.loop.wake
    rates = Rates(settings.rates, base.clock)
    access_tokens, traffic_tokens = AccessTokens(auth.secret), TrafficTokens(auth.secret)
    registry_credentials = RegistryCredentials(database=database, sealing=Sealing(auth.secret))
    scratch = ScratchSpace(settings.data_dir / "scratch")
    builds, build_worker, build_cleanup = build_builds(
        base, auth, sandboxes, images, registry_credentials=registry_credentials, scratch=scratch
    )
    throttle = Throttle(database)
    hosts = build_hosts(base, auth, sandboxes, throttle)
    return Parts(
        auth=auth,
        monitor=monitor,
        images=images,
        sandboxes=sandboxes,
        ports=build_ports(
            base, auth, sandboxes, rates, link_key, access_tokens=access_tokens, traffic_tokens=traffic_tokens
        ),
        builds=builds,
        build_worker=build_worker,
        build_cleanup=build_cleanup,
        scratch=scratch,
        registry_credentials=registry_credentials,
        hosts=hosts,
        accounts=build_accounts(
            base,
            auth,
            sandboxes,
            hosts.fleet,
            builds,
            registry_credentials=registry_credentials,
            throttle=throttle,
            passwords=passwords,
            provider_client=provider_client,
        ),
        mail_sender=build_mail_sender(base),
        feed=Feed(database),
        rates=rates,
        access_tokens=access_tokens,
        traffic_tokens=traffic_tokens,
    )
