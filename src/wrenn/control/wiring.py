"""Builds the control plane's objects. No other module does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import SystemClock
from wrenn.base.held_output import OutputBudget, OutputShares
from wrenn.base.ids import random_hex
from wrenn.base.tasks import OwnedTasks
from wrenn.control import (
    administration,
    audit_log,
    guests,
    keys,
    oauth,
    profile,
    recovery,
    sandboxes,
    sessions,
    teams,
)
from wrenn.control.account_mail import AccountMails
from wrenn.control.administration import Administration
from wrenn.control.audit_log import AuditLog, Retention
from wrenn.control.auth import CHANNEL as ACCESS
from wrenn.control.auth import Authenticator, LastUsed, OpenCalls, Tokens, ensure_secret
from wrenn.control.cleanup import sweep_forever
from wrenn.control.db import CHANNEL as HINTS
from wrenn.control.db import Database, Hints, listen
from wrenn.control.db.embedded import ensure_running
from wrenn.control.db.migrate import migrate
from wrenn.control.events import CHANNEL as EVENTS
from wrenn.control.events import Events, Feed
from wrenn.control.events import Retention as EventRetention
from wrenn.control.events import routers as event_routers
from wrenn.control.guests import Commands, Files, Streams
from wrenn.control.hosts import HostClients, Monitor, ensure_pki, register
from wrenn.control.http import BehindProxies, Browsers, Rates
from wrenn.control.http.app import api_router, build_app
from wrenn.control.keys import Keys
from wrenn.control.mail import CHANNEL as MAIL
from wrenn.control.mail import MailSender, SmtpServer
from wrenn.control.oauth import ProviderClient, SignIn, Tickets, providers_of
from wrenn.control.placement import Overcommit
from wrenn.control.profile import Profiles
from wrenn.control.proxy import Access as PortAccess
from wrenn.control.proxy import Links, LinkSigner, Places, PortProxy, link_secret
from wrenn.control.proxy import routers as port_routers
from wrenn.control.quotas import routes as quota_routes
from wrenn.control.quotas.service import Quotas
from wrenn.control.recovery import Recovery
from wrenn.control.sandboxes import (
    Capacity,
    ChangeNotifier,
    Comparison,
    ComparisonSettings,
    Creation,
    Disks,
    Forks,
    Lifecycle,
    Lookup,
    NetworkRules,
    Networks,
    Reconciler,
    ReconcilerSettings,
    SandboxSizeLimits,
    Targets,
    WaitLimits,
)
from wrenn.control.sessions import PasswordLogin, Sessions
from wrenn.control.settings import Settings
from wrenn.control.snapshots import SnapshotLifecycle, SnapshotLifecycleSettings, Snapshots, SnapshotSweep
from wrenn.control.snapshots import routers as snapshot_routers
from wrenn.control.teams import Invitations, TeamDeletion, Teams
from wrenn.control.throttle import Throttle
from wrenn.control.users import Passwords
from wrenn.protocol.api import (
    ADMIN_AUDIT_PREFIX,
    ADMIN_TEAMS_PREFIX,
    AUDIT_PREFIX,
    EVENTS_PREFIX,
    LIMITS_PREFIX,
    SANDBOXES_PREFIX,
    SNAPSHOTS_PREFIX,
)

LOCAL_HOST: Final = "local"
"""Name of the one host that comes from the settings."""
ROUTERS: Final = {
    SANDBOXES_PREFIX: (*sandboxes.routers, *guests.routers, *port_routers),
    SNAPSHOTS_PREFIX: snapshot_routers,
    "/v1/auth": (sessions.router, recovery.router),
    "/v1/me": (profile.router,),
    **teams.ROUTERS,
    "/v1/api-keys": (keys.router,),
    "/v1/admin": (administration.router,),
    AUDIT_PREFIX: (audit_log.router,),
    ADMIN_AUDIT_PREFIX: (audit_log.admin_router,),
    **oauth.ROUTERS,
    EVENTS_PREFIX: event_routers,
    LIMITS_PREFIX: (quota_routes.own_router,),
    ADMIN_TEAMS_PREFIX: (quota_routes.admin_router,),
}
API: Final = api_router(ROUTERS)


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane: its application, and the loops that a test may step by hand."""

    app: BehindProxies
    database: Database
    monitor: Monitor
    comparison: Comparison
    reconciler: Reconciler
    sweep: SnapshotSweep
    feed: Feed
    open_calls: OpenCalls

    def begin_shutdown(self) -> None:
        """End event streams, which would never end by themselves. Call it before the server waits for open requests."""
        self.feed.close()


@asynccontextmanager
async def running_control(settings: Settings) -> AsyncGenerator[Control]:
    """Build the control plane and run its background loops; stop them and close connections at the end. Sandboxes run on.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    url = settings.database_url or await ensure_running(settings.data_dir)
    await migrate(url)
    pki = settings.data_dir / "pki"
    ensure_pki(pki)
    async with AsyncExitStack() as stack:
        database = Database(url)
        stack.push_async_callback(database.close)
        clients = HostClients(pki)
        stack.push_async_callback(clients.close)
        passwords = Passwords()
        stack.callback(passwords.close)
        provider_client = await stack.enter_async_context(ProviderClient())
        control, closing, loops = _build(
            settings,
            database,
            clients,
            passwords=passwords,
            provider_client=provider_client,
            link_key=await link_secret(database),
        )
        for close in closing:
            stack.push_async_callback(close)
        await register(database, name=LOCAL_HOST, address=settings.agent_url)
        tasks = OwnedTasks()
        stack.push_async_callback(tasks.close)
        for name, loop in loops.items():
            tasks.start(name, loop)
        yield control


def _build(
    settings: Settings,
    database: Database,
    clients: HostClients,
    *,
    passwords: Passwords,
    provider_client: ProviderClient,
    link_key: bytes,
) -> tuple[Control, Sequence[Callable[[], Awaitable[None]]], Mapping[str, Coroutine[object, object, None]]]:
    """The objects, how to let go of them, and their loops."""
    owner = random_hex(8)
    clock = SystemClock()
    hints = Hints(sender=owner)
    changes = ChangeNotifier(database)
    monitor = Monitor(database, clients, interval_s=settings.host_interval_s)
    last_used = LastUsed(database, clock)
    authenticator = Authenticator(database, last_used)
    feed = Feed(database)
    open_calls = OpenCalls(database)
    reconciler = Reconciler(
        database=database,
        hints=hints,
        clients=clients,
        changes=changes,
        owner=owner,
        settings=ReconcilerSettings(
            lease_s=settings.lease_s,
            start_timeout_s=settings.start_timeout_s,
            start_retry_s=settings.start_retry_s,
        ),
    )
    comparison = Comparison(
        database=database,
        hints=hints,
        clients=clients,
        changes=changes,
        reconciler=reconciler,
        clock=clock,
        settings=ComparisonSettings(
            interval_s=settings.host_interval_s,
            missing_after_s=settings.missing_after_s,
            grace_s=settings.unknown_grace_s,
        ),
    )
    keeper = SnapshotLifecycle(
        database=database,
        clients=clients,
        owner=owner,
        settings=SnapshotLifecycleSettings(
            lease_s=settings.lease_s,
            take_timeout_s=settings.start_timeout_s,
            retry_s=settings.start_retry_s,
            limits=settings.quotas,
        ),
    )
    lookup = Lookup(database, authenticator)
    capacity = Capacity(
        database, Overcommit(settings.memory_overcommit, settings.disk_overcommit), settings.quotas
    )
    wait_limits = WaitLimits(
        start_s=settings.start_timeout_s, change_s=settings.start_retry_s + settings.start_timeout_s
    )
    network_rules = NetworkRules(settings.private_networks)
    creation = Creation(
        database=database,
        hints=hints,
        monitor=monitor,
        changes=changes,
        reconciler=reconciler,
        capacity=capacity,
        limits=SandboxSizeLimits(
            settings.max_vcpus, settings.min_memory_mb, settings.max_memory_mb, settings.max_disk_mb
        ),
        network_rules=network_rules,
        wait_limits=wait_limits,
    )
    lifecycle = Lifecycle(
        database=database,
        hints=hints,
        lookup=lookup,
        monitor=monitor,
        changes=changes,
        reconciler=reconciler,
        capacity=capacity,
        wait_limits=wait_limits,
    )
    disks = Disks(
        hints=hints, clients=clients, lookup=lookup, capacity=capacity, disk_max_mb=settings.max_disk_mb
    )
    networks = Networks(database=database, hints=hints, clients=clients, lookup=lookup, rules=network_rules)
    forks = Forks(
        database=database,
        hints=hints,
        lookup=lookup,
        monitor=monitor,
        changes=changes,
        reconciler=reconciler,
        keeper=keeper,
        capacity=capacity,
        wait_limits=wait_limits,
    )
    targets = Targets(
        database=database, clients=clients, lookup=lookup, lifecycle=lifecycle, open_calls=open_calls
    )
    sweep = SnapshotSweep(
        database=database,
        clients=clients,
        keeper=keeper,
        clock=clock,
        take_back=forks.remove_abandoned_copies,
        interval_s=settings.host_interval_s,
        unknown_grace_s=settings.unknown_grace_s,
    )

    signer = LinkSigner(link_key, clock)
    places = Places(database=database, clients=clients, targets=targets, clock=clock)
    secret = settings.accounts.jwt_secret or ensure_secret(settings.data_dir)
    tokens = Tokens(secret, clock)
    port_access = PortAccess(
        authenticator=authenticator, places=places, signer=signer, clock=clock, tokens=tokens
    )

    def on_hint() -> None:
        reconciler.wake()
        changes.notify_all()

    def on_any_hint() -> None:
        places.forget_all()
        port_access.forget_all()

    def on_access_change(_payload: str) -> None:
        port_access.forget_all()
        open_calls.wake()

    snapshots = Snapshots(database=database, keeper=keeper, find_source=lookup.source)
    throttle = Throttle(database)
    mails = AccountMails(throttle, None if settings.mail is None else settings.mail.public_url)
    recovery = Recovery(database=database, passwords=passwords, throttle=throttle, mails=mails)
    mail_sender = (
        None
        if settings.mail is None
        else MailSender(database, SmtpServer(settings.mail), settings.mail.sender)
    )
    sessions = Sessions(database=database, tokens=tokens, life_s=settings.accounts.session_life_s)
    team_deletion = TeamDeletion(removals=(lifecycle.remove_all, snapshots.remove_all), wake=reconciler.wake)
    browsers = Browsers(settings.accounts.public_url, settings.accounts.trusted_proxies)
    services = {
        "authenticator": authenticator,
        "tokens": tokens,
        "browsers": browsers,
        "sessions": sessions,
        "entrance": PasswordLogin(
            database=database,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mails=mails,
            signup_open=settings.accounts.signup_open,
        ),
        "sign_in": SignIn(
            database=database,
            sessions=sessions,
            authenticator=authenticator,
            providers=providers_of(settings.oauth, provider_client, clock),
            tickets=Tickets(secret, clock),
            settings=settings.oauth,
            accounts=settings.accounts,
        ),
        "profiles": Profiles(
            database=database,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mails=mails,
            team_deletion=team_deletion,
        ),
        "recovery": recovery,
        "teams": Teams(
            database=database,
            throttle=throttle,
            team_deletion=team_deletion,
            teams_per_user=settings.accounts.teams_per_user,
        ),
        "invitations": Invitations(database=database, throttle=throttle, mails=mails),
        "keys": Keys(database=database, clock=clock),
        "administration": Administration(
            database=database, team_deletion=team_deletion, count_sandboxes=lookup.count
        ),
        "lookup": lookup,
        "creation": creation,
        "lifecycle": lifecycle,
        "forks": forks,
        "disks": disks,
        "networks": networks,
        "targets": targets,
        "commands": Commands(targets, OutputBudget(OutputShares())),
        "files": Files(targets),
        "snapshots": snapshots,
        "audit_log": AuditLog(database),
        "streams": Streams(targets),
        "links": Links(lookup=lookup, signer=signer, clock=clock),
        "domain": settings.domain,
        "quotas": Quotas(database=database, find_quota_status=capacity.quota_status),
        "events": Events(database=database, authenticator=authenticator, feed=feed, open_calls=open_calls),
    }
    loops = {
        "look at hosts": monitor.run(),
        "reconcile": reconciler.run(),
        "compare with hosts": comparison.run(),
        "sweep snapshots": sweep.run(),
        "listen": listen(
            database,
            {
                HINTS: hints.heard(on_hint, on_any=on_any_hint),
                EVENTS: feed.wake,
                ACCESS: on_access_change,
                **({} if mail_sender is None else {MAIL: mail_sender.wake}),
            },
        ),
        "read events": feed.run(),
        "look at open calls": open_calls.run(),
        "forget old events": EventRetention(database, keep_s=settings.event_retention_h * 3600).run(),
        "write last use of keys": last_used.run(),
        "sweep accounts": sweep_forever(database),
        "forget old audit entries": Retention(database, days=settings.audit_retention_days).run(),
    }
    if mail_sender is not None:
        loops |= {"send mails": mail_sender.run(), "write requested mails": recovery.run()}
    rates = Rates(settings.rates, clock)
    proxy = PortProxy(
        build_app(API, services, rates),
        access=port_access,
        places=places,
        rates=rates,
        open_calls=open_calls,
    )
    app = BehindProxies(proxy, browsers)
    control = Control(app, database, monitor, comparison, reconciler, sweep, feed, open_calls)
    return control, (creation.close, forks.close), loops
