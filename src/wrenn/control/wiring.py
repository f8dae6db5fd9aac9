"""Builds the control plane's objects. No other module does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from wrenn.base.clock import Clock, SystemClock
from wrenn.base.ids import random_hex
from wrenn.base.loops import Loop
from wrenn.base.output_buffer import OutputBudget, OutputLimits
from wrenn.base.secrets import Secret
from wrenn.base.tasks import OwnedTasks
from wrenn.base.units import MIB
from wrenn.control import (
    administration,
    audit_log,
    dashboard,
    enrolment,
    fleet,
    keys,
    metrics,
    oauth,
    password_reset,
    profile,
    registries,
    sessions,
    teams,
)
from wrenn.control.account_mail import AccountMails
from wrenn.control.administration import Administration
from wrenn.control.audit_log import AuditLog
from wrenn.control.audit_log import Retention as AuditRetention
from wrenn.control.auth import CHANNEL as ACCESS
from wrenn.control.auth import Authenticator, LastUsed, OpenCalls, Tokens, ensure_secret
from wrenn.control.builds import (
    AbandonedArchives,
    ArchiveUploads,
    BuildBases,
    BuildResults,
    BuildRunner,
    Builds,
    BuildWorker,
    LayerCache,
    ScratchSpace,
)
from wrenn.control.builds import admin_routers as build_admin_routers
from wrenn.control.builds import is_running as is_build_running
from wrenn.control.builds import routers as build_routers
from wrenn.control.cleanup import Cleanup
from wrenn.control.db import CHANNEL as HINTS
from wrenn.control.db import Database, Hints, Listener, NotificationHandler
from wrenn.control.db.embedded import ensure_running
from wrenn.control.db.migrate import migrate
from wrenn.control.e2b import (
    BuilderFiles,
    BuilderRetention,
    E2bEdge,
    E2bLogs,
    E2bMetrics,
    E2bSandboxes,
    E2bSnapshots,
    E2bTemplates,
    TemplateLookup,
    build_e2b_app,
)
from wrenn.control.e2b import remove_all_of_team as remove_all_e2b_of_team
from wrenn.control.enrolment import Enrolment
from wrenn.control.events import CHANNEL as EVENTS
from wrenn.control.events import Events, Feed
from wrenn.control.events import Retention as EventRetention
from wrenn.control.events import routers as event_routers
from wrenn.control.fleet import Drains, Fleet
from wrenn.control.guests import Commands, Downloads, Files, Inspection, Streams, link_router
from wrenn.control.guests import routers as guest_routers
from wrenn.control.hosts import (
    Authority,
    CertificateRenewal,
    Heartbeats,
    HostClients,
    Monitor,
    RecentHosts,
    Replica,
    ensure_pki,
)
from wrenn.control.http import BehindProxies, Browsers, PortDomain, Rates
from wrenn.control.http.app import api_router, build_app, route_of
from wrenn.control.images import HostImages, Images, ImageSweep, ServedObjects, store_router
from wrenn.control.images import router as image_router
from wrenn.control.keys import Keys
from wrenn.control.loop_report import LoopReport
from wrenn.control.mail import CHANNEL as MAIL
from wrenn.control.mail import MailSender, SmtpServer
from wrenn.control.metrics import (
    CreateCounts,
    LiveMetrics,
    PlatformUsage,
    ReceivedSamples,
    SampleRetention,
    SandboxMetrics,
    TeamMetrics,
    TeamSampler,
)
from wrenn.control.oauth import ProviderClient, SignIn, Tickets, providers_of
from wrenn.control.objects import ObjectStore, UrlSigner
from wrenn.control.password_reset import PasswordReset
from wrenn.control.placement import Overcommit
from wrenn.control.platform_metrics import PlatformMetrics
from wrenn.control.profile import Profiles
from wrenn.control.proxy import (
    AccessTokens,
    Links,
    LinkSigner,
    PortAccess,
    PortProxy,
    PublicVisits,
    SandboxLocations,
    SignedFiles,
    TrafficTokens,
    Visits,
    link_secret,
)
from wrenn.control.proxy import routers as port_routers
from wrenn.control.quotas import routes as quota_routes
from wrenn.control.quotas.service import Quotas
from wrenn.control.registries import RegistryCredentials, Sealing
from wrenn.control.sandboxes import (
    BackOff,
    Capacity,
    ChangeNotifier,
    CommittingMoves,
    Comparison,
    ComparisonSettings,
    Creations,
    Deletions,
    DescriptionChanges,
    Disks,
    Forks,
    HostDrains,
    InternalSandboxes,
    Lookup,
    Moves,
    MoveStep,
    NetworkRules,
    Networks,
    Pauses,
    PauseUploading,
    PauseUploads,
    PlacingAgain,
    Reconciler,
    ReconcilerSettings,
    Recoveries,
    Resumes,
    RunningSandboxes,
    SandboxSizeLimits,
    StoreState,
    TimeLimitChanges,
    WaitLimits,
)
from wrenn.control.sandboxes import images_in_use as sandboxes_of_images
from wrenn.control.sandboxes import routers as sandbox_routers
from wrenn.control.services import Services
from wrenn.control.sessions import LinkLogin, PasswordLogin, Sessions
from wrenn.control.settings import Settings
from wrenn.control.snapshots import (
    BackgroundUploads,
    SnapshotLifecycle,
    SnapshotLifecycleSettings,
    Snapshots,
    SnapshotStorage,
    SnapshotSweep,
    SnapshotUploads,
)
from wrenn.control.snapshots import routers as snapshot_routers
from wrenn.control.teams import Invitations, TeamDeletion, Teams
from wrenn.control.templates import Templates
from wrenn.control.templates import admin_routers as template_admin_routers
from wrenn.control.templates import images_in_use as templates_of_images
from wrenn.control.templates import routers as template_routers
from wrenn.control.throttle import Throttle
from wrenn.control.users import Passwords
from wrenn.protocol.api import (
    ADMIN_AUDIT_PREFIX,
    ADMIN_BUILDS_PREFIX,
    ADMIN_TEAMS_PREFIX,
    ADMIN_TEMPLATES_PREFIX,
    AUDIT_PREFIX,
    BUILDS_PREFIX,
    DOWNLOADS_PREFIX,
    EVENTS_PREFIX,
    HOSTS_PREFIX,
    LIMITS_PREFIX,
    SANDBOXES_PREFIX,
    SNAPSHOTS_PREFIX,
    STORE_PREFIX,
    TEMPLATES_PREFIX,
    USAGE_PREFIX,
)
from wrenn.telemetry import Metrics, RequestMetrics

# Requests are compared with the endpoints in this order. Heartbeats are the requests that never cease.
ROUTERS: Final = {
    HOSTS_PREFIX: (enrolment.router, fleet.router, image_router, metrics.host_router),
    # Before those that take any word for the id of a sandbox.
    SANDBOXES_PREFIX: (*metrics.routers, *sandbox_routers, *guest_routers, *port_routers),
    SNAPSHOTS_PREFIX: snapshot_routers,
    TEMPLATES_PREFIX: template_routers,
    BUILDS_PREFIX: build_routers,
    "/v1/registry-credentials": (registries.router,),
    ADMIN_TEMPLATES_PREFIX: template_admin_routers,
    ADMIN_BUILDS_PREFIX: build_admin_routers,
    "/v1/auth": (sessions.router, password_reset.router),
    "/v1/me": (profile.router,),
    **teams.ROUTERS,
    "/v1/api-keys": (keys.router,),
    "/v1/admin": (administration.router, metrics.admin_router),
    AUDIT_PREFIX: (audit_log.router,),
    ADMIN_AUDIT_PREFIX: (audit_log.admin_router,),
    **oauth.ROUTERS,
    EVENTS_PREFIX: event_routers,
    LIMITS_PREFIX: (quota_routes.own_router,),
    USAGE_PREFIX: (metrics.usage_router,),
    ADMIN_TEAMS_PREFIX: (quota_routes.admin_router,),
    STORE_PREFIX: (store_router,),
    DOWNLOADS_PREFIX: (link_router,),
}
API: Final = api_router(ROUTERS)
_LOOPS_CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane: its application, and the services and loops that a test may use without it."""

    app: BehindProxies
    services: Services
    database: Database
    loops_database: Database
    monitor: Monitor
    comparison: Comparison
    reconciler: Reconciler
    sweep: SnapshotSweep
    images: Images
    image_sweep: ImageSweep
    objects: ObjectStore
    drains: Drains
    feed: Feed
    open_calls: OpenCalls
    metrics: Metrics
    renewal: CertificateRenewal
    replica: Replica
    create_counts: CreateCounts

    def begin_shutdown(self) -> None:
        """End event streams, which would never end by themselves. Call it before the server waits for open requests."""
        self.feed.close()
        self.services.live_metrics.end_streams()
        self.services.builds.close()


@asynccontextmanager
async def running_control(settings: Settings, clock: Clock | None = None) -> AsyncGenerator[Control]:
    """Build the control plane and run its background loops; stop them and close connections at the end. Sandboxes run on.

    Tests may give it another `clock` than the machine's.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
        Conflict: this replica has another CA or another secret for tokens than the platform.
    """
    url = settings.database_url or await ensure_running(settings.data_dir)
    await migrate(url)
    pki = settings.data_dir / "pki"
    authority = ensure_pki(pki, settings.authority)
    async with AsyncExitStack() as stack:
        database = Database(url)
        stack.push_async_callback(database.close)
        loops_database = Database(url, limit=_LOOPS_CONNECTIONS)
        stack.push_async_callback(loops_database.close)
        clients = HostClients(pki)
        stack.push_async_callback(clients.close)
        passwords = Passwords()
        stack.callback(passwords.close)
        provider_client = await stack.enter_async_context(ProviderClient())
        metrics = Metrics()
        platform_metrics = PlatformMetrics(metrics, database)
        control, closing, loops = _build(
            _Base(
                settings,
                database,
                loops_database,
                RecentHosts(loops_database, interval_s=settings.host_interval_s),
                clients,
                clock or SystemClock(),
                random_hex(8),
                platform_metrics,
                CreateCounts(loops_database, observe=platform_metrics.observe_create),
                authority,
            ),
            metrics,
            passwords=passwords,
            provider_client=provider_client,
            link_key=await link_secret(database),
        )
        for close in closing:
            stack.push_async_callback(close)
        await control.replica.enter()
        stack.push_async_callback(control.replica.leave)
        tasks = OwnedTasks()
        stack.push_async_callback(tasks.close)
        for looping in loops:
            tasks.start(looping.loop.status.name, looping.run())
        tasks.start("report loops", LoopReport(settings.data_dir, [each.loop for each in loops]).run())
        yield control


class _Looping(Protocol):
    """A service with a background loop."""

    loop: Loop

    async def run(self) -> None:
        """Run the loop until cancelled."""
        ...


Closing = Sequence[Callable[[], Awaitable[None]]]
"""What is to be called at the end."""


@dataclass(frozen=True, slots=True)
class _Base:
    """What every feature needs. `owner` names this replica, in leases and hints.

    `loops_database`: for loops that work on all hosts or rows, so that they never take the connections that requests need.
    """

    settings: Settings
    database: Database
    loops_database: Database
    hosts: RecentHosts
    clients: HostClients
    clock: Clock
    owner: str
    metrics: PlatformMetrics
    create_counts: CreateCounts
    authority: Authority


def _build(
    base: _Base, metrics: Metrics, *, passwords: Passwords, provider_client: ProviderClient, link_key: bytes
) -> tuple[Control, Closing, Sequence[_Looping]]:
    settings, database = base.settings, base.database
    auth = _build_auth(base)
    hosts = Monitor(
        base.loops_database,
        base.hosts,
        base.clients,
        interval_s=settings.host_interval_s,
        silent_after_s=settings.missing_after_s,
    )
    images = _build_images(base, auth)
    sandboxes = _build_sandboxes(base, auth, hosts, images.images)
    hosts.on_unreachable = sandboxes.comparison.loop.wake
    rates = Rates(settings.rates, base.clock)
    access_tokens, traffic_tokens = AccessTokens(auth.secret), TrafficTokens(auth.secret)
    ports = _build_ports(
        base, auth, sandboxes, rates, link_key, access_tokens=access_tokens, traffic_tokens=traffic_tokens
    )
    registry_credentials = RegistryCredentials(database=database, sealing=Sealing(auth.secret))
    builds, build_worker = _build_builds(base, sandboxes, images, registry_credentials)
    mail_sender = _build_mail_sender(base)
    throttle = Throttle(database)
    fleet_service = Fleet(
        database=database,
        capacity=sandboxes.capacity,
        deletions=sandboxes.deletions,
        snapshots=sandboxes.snapshots,
    )
    drains = Drains(
        database=database, fleet=fleet_service, capacity=sandboxes.capacity, sandboxes=sandboxes.host_drains
    )
    accounts = _build_accounts(
        base,
        auth,
        sandboxes,
        fleet_service,
        builds,
        registry_credentials=registry_credentials,
        throttle=throttle,
        passwords=passwords,
        provider_client=provider_client,
    )
    renewal = CertificateRenewal(settings.data_dir / "pki", settings.authority, base.clients, base.authority)
    replica = Replica(database, base.owner, renewal, auth.secret)
    feed = Feed(database)
    heartbeats = Heartbeats(database)
    browsers = Browsers(settings.accounts.public_url, settings.accounts.trusted_proxies)
    files = Files(sandboxes.running_sandboxes)
    sandbox_metrics = SandboxMetrics(
        database=database, lookup=sandboxes.lookup, clients=base.clients, clock=base.clock
    )
    e2b_sandboxes = E2bSandboxes(
        lookup=sandboxes.lookup,
        template_lookup=TemplateLookup(sandboxes.templates),
        creations=sandboxes.creations,
        deletions=sandboxes.deletions,
        pauses=sandboxes.pauses,
        resumes=sandboxes.resumes,
        forks=sandboxes.forks,
        networks=sandboxes.networks,
        time_limit_changes=sandboxes.time_limit_changes,
        access_tokens=access_tokens,
        traffic_tokens=traffic_tokens,
    )
    inspection = Inspection(sandboxes.running_sandboxes)
    services = Services(
        authenticator=auth.authenticator,
        tokens=auth.tokens,
        browsers=browsers,
        port_domain=PortDomain(settings.domain),
        password_login=accounts.password_login,
        link_login=accounts.link_login,
        sessions=accounts.sessions,
        sign_in=accounts.sign_in,
        profiles=accounts.profiles,
        password_reset=accounts.password_reset,
        teams=accounts.teams,
        invitations=accounts.invitations,
        keys=Keys(database=database, clock=base.clock),
        administration=accounts.administration,
        lookup=sandboxes.lookup,
        sandbox_metrics=sandbox_metrics,
        platform_usage=PlatformUsage(database=database, clients=base.clients),
        live_metrics=LiveMetrics(
            metrics=sandbox_metrics, authenticator=auth.authenticator, open_calls=auth.open_calls
        ),
        team_metrics=TeamMetrics(database=database, clock=base.clock),
        received_samples=ReceivedSamples(database=database, tokens=auth.tokens, clock=base.clock),
        creations=sandboxes.creations,
        pauses=sandboxes.pauses,
        resumes=sandboxes.resumes,
        moves=sandboxes.moves,
        recoveries=sandboxes.recoveries,
        deletions=sandboxes.deletions,
        time_limit_changes=sandboxes.time_limit_changes,
        description_changes=sandboxes.description_changes,
        forks=sandboxes.forks,
        disks=sandboxes.disks,
        networks=sandboxes.networks,
        running_sandboxes=sandboxes.running_sandboxes,
        commands=Commands(sandboxes.running_sandboxes, OutputBudget(OutputLimits())),
        files=files,
        downloads=Downloads(database=database, lookup=sandboxes.lookup, files=files),
        inspection=inspection,
        streams=Streams(sandboxes.running_sandboxes),
        snapshots=sandboxes.snapshots,
        templates=sandboxes.templates,
        builds=builds,
        registry_credentials=registry_credentials,
        links=ports.links,
        access_tokens=access_tokens,
        traffic_tokens=traffic_tokens,
        e2b_sandboxes=e2b_sandboxes,
        e2b_snapshots=E2bSnapshots(
            sandboxes=e2b_sandboxes, snapshots=sandboxes.snapshots, templates=sandboxes.templates
        ),
        e2b_templates=E2bTemplates(
            database=database,
            builds=builds,
            templates=sandboxes.templates,
            files=BuilderFiles(database=database, objects=images.objects, secret=auth.secret),
        ),
        e2b_logs=E2bLogs(sandboxes=e2b_sandboxes, inspection=inspection),
        e2b_metrics=E2bMetrics(sandboxes=e2b_sandboxes, metrics=sandbox_metrics, clock=base.clock),
        quotas=Quotas(database=database, find_quota_status=sandboxes.capacity.quota_status),
        audit_log=AuditLog(database),
        events=Events(
            database=database, authenticator=auth.authenticator, feed=feed, open_calls=auth.open_calls
        ),
        fleet=fleet_service,
        drains=drains,
        enrolment=Enrolment(
            database=database,
            heartbeats=heartbeats,
            authority=lambda: renewal.authority,
            tokens=auth.tokens,
            throttle=throttle,
            record_activity=sandboxes.comparison.record_activity,
            clock=base.clock,
        ),
        url_signer=images.url_signer,
        host_images=images.host_images,
        served_objects=ServedObjects(images.objects),
    )
    loops: list[_Looping] = [
        hosts,
        sandboxes.reconciler,
        sandboxes.reconciler.leases,
        sandboxes.snapshot_lifecycle.leases,
        sandboxes.comparison,
        sandboxes.sweep,
        images.images.leases,
        images.sweep,
        build_worker,
        build_worker.leases,
        drains,
        Listener(database, _listeners(auth, sandboxes, ports, feed, mail_sender)),
        feed,
        auth.open_calls,
        ports.public_visits,
        auth.last_used,
        EventRetention(base.loops_database, keep_s=settings.event_retention_h * 3600),
        AuditRetention(base.loops_database, days=settings.audit_retention_days),
        Cleanup(base.loops_database),
        BuilderRetention(base.loops_database, images.objects),
        SampleRetention(base.loops_database),
        TeamSampler(base.loops_database, owner=base.owner),
        base.create_counts,
        renewal,
        replica,
    ]
    if settings.snapshot_uploads is SnapshotUploads.ALWAYS:
        loops.append(sandboxes.uploads)
    if settings.pause_uploads is not PauseUploads.NEVER:
        loops += [sandboxes.pause_uploading, sandboxes.pause_uploading.leases]
    if mail_sender is not None:
        loops += [mail_sender, accounts.password_reset]
    base.metrics.watch_loops([each.loop for each in loops])
    app = build_app(API, services, rates)
    dashboard.install(app, dashboard.BuiltDashboard.load(dashboard.BUILT, settings.accounts.public_url))
    proxy = PortProxy(
        E2bEdge(app, build_e2b_app(services, rates), domain=settings.domain),
        Visits(
            access=ports.access,
            access_tokens=services.access_tokens,
            locations=ports.locations,
            rates=rates,
            open_calls=auth.open_calls,
            public_visits=ports.public_visits,
        ),
        ports.signed_files,
    )
    control = Control(
        BehindProxies(RequestMetrics(proxy, metrics, "wrenn_http", route_of), browsers),
        services,
        database,
        base.loops_database,
        hosts,
        sandboxes.comparison,
        sandboxes.reconciler,
        sandboxes.sweep,
        images.images,
        images.sweep,
        images.objects,
        drains,
        feed,
        auth.open_calls,
        metrics,
        renewal,
        replica,
        base.create_counts,
    )
    closing = (
        images.objects.close,
        sandboxes.creations.close,
        sandboxes.snapshot_storage.close,
        sandboxes.forks.close,
        sandboxes.capacity.close,
        heartbeats.close,
        services.live_metrics.close,
    )
    return control, closing, loops


@dataclass(frozen=True, slots=True)
class _Auth:
    authenticator: Authenticator
    tokens: Tokens
    secret: Secret
    last_used: LastUsed
    open_calls: OpenCalls


def _build_auth(base: _Base) -> _Auth:
    secret = base.settings.accounts.jwt_secret or ensure_secret(base.settings.data_dir)
    last_used = LastUsed(base.database, base.clock)
    return _Auth(
        authenticator=Authenticator(base.database, last_used),
        tokens=Tokens(secret, base.clock),
        secret=secret,
        last_used=last_used,
        open_calls=OpenCalls(base.database),
    )


@dataclass(frozen=True, slots=True)
class _Sandboxes:
    hints: Hints
    changes: ChangeNotifier
    reconciler: Reconciler
    comparison: Comparison
    capacity: Capacity
    lookup: Lookup
    creations: Creations
    pauses: Pauses
    resumes: Resumes
    moves: Moves
    recoveries: Recoveries
    pause_uploading: PauseUploading
    deletions: Deletions
    host_drains: HostDrains
    time_limit_changes: TimeLimitChanges
    forks: Forks
    disks: Disks
    networks: Networks
    description_changes: DescriptionChanges
    running_sandboxes: RunningSandboxes
    snapshots: Snapshots
    templates: Templates
    snapshot_lifecycle: SnapshotLifecycle
    internal: InternalSandboxes
    sweep: SnapshotSweep
    snapshot_storage: SnapshotStorage
    uploads: BackgroundUploads


def _build_sandboxes(base: _Base, auth: _Auth, monitor: Monitor, images: Images) -> _Sandboxes:
    settings, database, clients = base.settings, base.database, base.clients
    hints = Hints(sender=base.owner)
    changes = ChangeNotifier(database)
    back_off = BackOff()
    capacity = Capacity(
        database,
        base.hosts,
        monitor,
        overcommit=Overcommit(settings.memory_overcommit, settings.disk_overcommit, settings.vcpu_overcommit),
        defaults=settings.quotas,
        back_off=back_off,
        uploads_snapshots=settings.snapshot_uploads is not SnapshotUploads.NEVER,
    )
    snapshot_lifecycle = SnapshotLifecycle(
        database=database,
        clients=clients,
        owner=base.owner,
        settings=SnapshotLifecycleSettings(
            lease_s=settings.lease_s,
            take_timeout_s=settings.start_timeout_s,
            retry_s=settings.start_retry_s,
            limits=settings.quotas,
        ),
    )
    snapshot_storage = SnapshotStorage(
        database=database,
        clients=clients,
        images=images,
        leases=snapshot_lifecycle.leases,
        clock=base.clock,
        retry_s=settings.start_retry_s,
        limits=settings.quotas,
    )
    store_state = StoreState(database, clients, images, settings.start_retry_s)
    reconciler = Reconciler(
        database=database,
        hints=hints,
        clients=clients,
        changes=changes,
        owner=base.owner,
        settings=ReconcilerSettings(
            lease_s=settings.lease_s,
            start_timeout_s=settings.start_timeout_s,
            start_retry_s=settings.start_retry_s,
            keep_stored=settings.pause_uploads is PauseUploads.ALWAYS,
        ),
        back_off=back_off,
        place_again=PlacingAgain(
            capacity=capacity, hints=hints, back_off=back_off, owner=base.owner
        ).place_again,
        move=MoveStep(
            database=database,
            hints=hints,
            clients=clients,
            store_state=store_state,
            commit=CommittingMoves(capacity=capacity, hints=hints, owner=base.owner).commit_move,
            owner=base.owner,
            lease_s=settings.lease_s,
            retry_s=settings.start_retry_s,
        ),
        image_for=snapshot_storage.image_for,
    )
    lookup = Lookup(database, auth.authenticator, is_build_running)
    wait_limits = WaitLimits(
        start_s=settings.start_timeout_s, change_s=settings.start_retry_s + settings.start_timeout_s
    )
    network_rules = NetworkRules(settings.private_networks)
    resumes = Resumes(
        database=database,
        hints=hints,
        lookup=lookup,
        changes=changes,
        reconciler=reconciler,
        capacity=capacity,
        wait_limits=wait_limits,
    )
    forks = Forks(
        database=database,
        hints=hints,
        lookup=lookup,
        changes=changes,
        reconciler=reconciler,
        snapshots=snapshot_lifecycle,
        capacity=capacity,
        wait_limits=wait_limits,
    )
    creations = Creations(
        database=database,
        hints=hints,
        changes=changes,
        reconciler=reconciler,
        capacity=capacity,
        limits=_size_limits(settings),
        network_rules=network_rules,
        wait_limits=wait_limits,
        observer=base.create_counts,
    )
    return _Sandboxes(
        hints=hints,
        changes=changes,
        reconciler=reconciler,
        comparison=Comparison(
            database=base.loops_database,
            hosts=base.hosts,
            hints=hints,
            clients=clients,
            changes=changes,
            reconciler=reconciler,
            clock=base.clock,
            settings=ComparisonSettings(
                interval_s=settings.host_interval_s,
                grace_s=settings.unknown_grace_s,
            ),
        ),
        capacity=capacity,
        lookup=lookup,
        creations=creations,
        pauses=Pauses(
            database=database,
            hints=hints,
            lookup=lookup,
            changes=changes,
            reconciler=reconciler,
            wait_limits=wait_limits,
        ),
        resumes=resumes,
        recoveries=Recoveries(
            database=database,
            hints=hints,
            lookup=lookup,
            changes=changes,
            reconciler=reconciler,
            capacity=capacity,
            wait_limits=wait_limits,
        ),
        pause_uploading=PauseUploading(
            database=base.loops_database,
            store_state=store_state,
            clock=base.clock,
            owner=base.owner,
            lease_s=settings.lease_s,
            uploads=settings.pause_uploads,
            limits=settings.quotas,
            interval_s=settings.host_interval_s,
        ),
        moves=Moves(
            database=database,
            hints=hints,
            lookup=lookup,
            changes=changes,
            reconciler=reconciler,
            capacity=capacity,
            wait_limits=wait_limits,
        ),
        host_drains=HostDrains(database=database, hints=hints, reconciler=reconciler, capacity=capacity),
        deletions=Deletions(
            database=database, hints=hints, lookup=lookup, changes=changes, reconciler=reconciler
        ),
        time_limit_changes=TimeLimitChanges(
            database=database, hints=hints, lookup=lookup, reconciler=reconciler
        ),
        forks=forks,
        disks=Disks(
            hints=hints, clients=clients, lookup=lookup, capacity=capacity, disk_max_mb=settings.max_disk_mb
        ),
        description_changes=DescriptionChanges(database=database, hints=hints, lookup=lookup),
        networks=Networks(
            database=database, hints=hints, clients=clients, lookup=lookup, rules=network_rules
        ),
        running_sandboxes=RunningSandboxes(
            database=database,
            clients=clients,
            lookup=lookup,
            resumes=resumes,
            open_calls=auth.open_calls,
        ),
        templates=Templates(database=database, drop_snapshot=snapshot_lifecycle.drop),
        snapshots=Snapshots(database=database, lifecycle=snapshot_lifecycle, find_source=lookup.source),
        snapshot_lifecycle=snapshot_lifecycle,
        internal=InternalSandboxes(
            database=database,
            hints=hints,
            changes=changes,
            reconciler=reconciler,
            clients=clients,
            creations=creations,
            capacity=capacity,
            wait_limits=wait_limits,
        ),
        sweep=SnapshotSweep(
            database=base.loops_database,
            hosts=base.hosts,
            clients=clients,
            lifecycle=snapshot_lifecycle,
            clock=base.clock,
            remove_copies=forks.remove_abandoned_copies,
            interval_s=settings.host_interval_s,
            unknown_grace_s=settings.unknown_grace_s,
            copies_b=settings.snapshot_copies_mb * MIB,
        ),
        snapshot_storage=snapshot_storage,
        uploads=BackgroundUploads(
            database=base.loops_database,
            storage=snapshot_storage,
            clock=base.clock,
            interval_s=settings.host_interval_s,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Images:
    objects: ObjectStore
    url_signer: UrlSigner
    images: Images
    host_images: HostImages
    sweep: ImageSweep


def _build_images(base: _Base, auth: _Auth) -> _Images:
    settings, database = base.settings, base.database
    url_signer = UrlSigner(auth.secret, base.clock)
    objects = ObjectStore(settings.store, url_signer)
    return _Images(
        objects=objects,
        url_signer=url_signer,
        images=Images(
            database=database,
            owner=base.owner,
            lease_s=settings.lease_s,
            key_id=settings.store.keys.current,
        ),
        host_images=HostImages(database=database, objects=objects, tokens=auth.tokens, clock=base.clock),
        sweep=ImageSweep(
            database=base.loops_database,
            clients=base.clients,
            objects=objects,
            clock=base.clock,
            find_users=(templates_of_images, sandboxes_of_images),
            interval_s=settings.host_interval_s,
            unknown_grace_s=settings.unknown_grace_s,
        ),
    )


def _build_builds(
    base: _Base, sandboxes: _Sandboxes, images: _Images, registry_credentials: RegistryCredentials
) -> tuple[Builds, BuildWorker]:
    settings, database = base.settings, base.database
    results = BuildResults(
        database=database,
        sandboxes=sandboxes.internal,
        snapshots=sandboxes.snapshot_lifecycle,
        images=images.images,
        owner=base.owner,
        limits=settings.quotas,
    )
    scratch = ScratchSpace(settings.data_dir / "scratch")
    runner = BuildRunner(
        database=database,
        objects=images.objects,
        sandboxes=sandboxes.internal,
        bases=BuildBases(
            database=database,
            sandboxes=sandboxes.internal,
            images=images.images,
            objects=images.objects,
            insecure_registries=settings.insecure_registries,
            credentials=registry_credentials,
        ),
        results=results,
        layers=LayerCache(
            database=database,
            sandboxes=sandboxes.internal,
            snapshots=sandboxes.snapshot_lifecycle,
            limit_b=settings.build_cache_mb * MIB,
        ),
        scratch=scratch,
        owner=base.owner,
    )
    worker = BuildWorker(
        database=database,
        objects=images.objects,
        sandboxes=sandboxes.internal,
        runner=runner,
        abandoned=AbandonedArchives(database=database, objects=images.objects, clock=base.clock),
        lease_s=settings.lease_s,
    )
    builds = Builds(
        database=database,
        objects=images.objects,
        uploads=ArchiveUploads(images.objects, scratch),
        limits=_size_limits(settings),
        wake=worker.loop.wake,
    )
    return builds, worker


def _size_limits(settings: Settings) -> SandboxSizeLimits:
    return SandboxSizeLimits(
        settings.max_vcpus, settings.min_memory_mb, settings.max_memory_mb, settings.max_disk_mb
    )


@dataclass(frozen=True, slots=True)
class _Ports:
    locations: SandboxLocations
    access: PortAccess
    links: Links
    signed_files: SignedFiles
    public_visits: PublicVisits


def _build_ports(
    base: _Base,
    auth: _Auth,
    sandboxes: _Sandboxes,
    rates: Rates,
    link_key: bytes,
    *,
    access_tokens: AccessTokens,
    traffic_tokens: TrafficTokens,
) -> _Ports:
    signer = LinkSigner(link_key, base.clock)
    locations = SandboxLocations(
        database=base.database,
        clients=base.clients,
        running_sandboxes=sandboxes.running_sandboxes,
        clock=base.clock,
    )
    access = PortAccess(
        authenticator=auth.authenticator,
        locations=locations,
        lookup=sandboxes.lookup,
        signer=signer,
        clock=base.clock,
        tokens=auth.tokens,
        access_tokens=access_tokens,
        traffic_tokens=traffic_tokens,
    )
    links = Links(lookup=sandboxes.lookup, signer=signer, clock=base.clock)
    signed_files = SignedFiles(database=base.database, tokens=access_tokens, rates=rates, clock=base.clock)
    return _Ports(locations, access, links, signed_files, PublicVisits(base.database))


def _build_mail_sender(base: _Base) -> MailSender | None:
    mail = base.settings.mail
    return None if mail is None else MailSender(base.database, SmtpServer(mail), mail.sender)


@dataclass(frozen=True, slots=True)
class _Accounts:
    sessions: Sessions
    password_login: PasswordLogin
    link_login: LinkLogin
    sign_in: SignIn
    profiles: Profiles
    password_reset: PasswordReset
    teams: Teams
    invitations: Invitations
    administration: Administration


def _build_accounts(
    base: _Base,
    auth: _Auth,
    sandboxes: _Sandboxes,
    fleet_service: Fleet,
    builds: Builds,
    *,
    registry_credentials: RegistryCredentials,
    throttle: Throttle,
    passwords: Passwords,
    provider_client: ProviderClient,
) -> _Accounts:
    settings, database = base.settings, base.database
    mails = AccountMails(throttle, None if settings.mail is None else settings.mail.public_url)
    sessions = Sessions(
        database=database, tokens=auth.tokens, secret=auth.secret, life_s=settings.accounts.session_life_s
    )
    # What a team has belongs to features that `teams` does not know.
    team_deletion = TeamDeletion(
        removals=(
            fleet_service.remove_all,
            sandboxes.deletions.remove_all,
            sandboxes.snapshots.remove_all,
            builds.remove_all,
            registry_credentials.remove_all,
            remove_all_e2b_of_team,
        ),
        wake=sandboxes.deletions.wake,
    )
    return _Accounts(
        sessions=sessions,
        password_login=PasswordLogin(
            database=database,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mails=mails,
            signup_open=settings.accounts.signup_open,
        ),
        link_login=LinkLogin(database=database, sessions=sessions, throttle=throttle),
        sign_in=SignIn(
            database=database,
            sessions=sessions,
            authenticator=auth.authenticator,
            providers=providers_of(settings.oauth, provider_client, base.clock),
            tickets=Tickets(auth.secret, base.clock),
            settings=settings.oauth,
            accounts=settings.accounts,
        ),
        profiles=Profiles(
            database=database,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mails=mails,
            team_deletion=team_deletion,
        ),
        password_reset=PasswordReset(database=database, passwords=passwords, throttle=throttle, mails=mails),
        teams=Teams(
            database=database,
            throttle=throttle,
            team_deletion=team_deletion,
            teams_per_user=settings.accounts.teams_per_user,
        ),
        invitations=Invitations(database=database, throttle=throttle, mails=mails),
        administration=Administration(
            database=database, team_deletion=team_deletion, count_sandboxes=sandboxes.lookup.count
        ),
    )


def _listeners(
    auth: _Auth, sandboxes: _Sandboxes, ports: _Ports, feed: Feed, mail_sender: MailSender | None
) -> Mapping[str, NotificationHandler]:
    """Return the handlers of notifications by channel of the database."""

    def on_hint() -> None:
        sandboxes.reconciler.wake()
        sandboxes.changes.notify_all()

    def on_any_hint() -> None:
        ports.locations.forget_all()
        ports.access.forget_all()
        ports.signed_files.forget_all()
        ports.public_visits.wake()

    def on_access_change(_payload: str) -> None:
        ports.access.forget_all()
        auth.open_calls.wake()

    return {
        HINTS: sandboxes.hints.handler(on_hint, on_any=on_any_hint),
        EVENTS: feed.wake,
        ACCESS: on_access_change,
        **({} if mail_sender is None else {MAIL: mail_sender.wake}),
    }
