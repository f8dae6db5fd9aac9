"""The services that endpoints call. `wiring` builds them; endpoints find each by its type (`http/services.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.control.administration import Administration
from wrenn.control.audit_log import AuditLog
from wrenn.control.auth import Authenticator, Tokens
from wrenn.control.builds import Builds
from wrenn.control.e2b import E2bLogs, E2bMetrics, E2bSandboxes, E2bSnapshots, E2bTemplates
from wrenn.control.enrolment import Enrolment
from wrenn.control.events import Events
from wrenn.control.fleet import Drains, Fleet
from wrenn.control.guests import Commands, Downloads, Files, Inspection, Streams
from wrenn.control.http import Browsers, PortDomain
from wrenn.control.images import HostImages, ServedObjects
from wrenn.control.keys import Keys
from wrenn.control.metrics import LiveMetrics, PlatformUsage, ReceivedSamples, SandboxMetrics, TeamMetrics
from wrenn.control.oauth import SignIn
from wrenn.control.objects import UrlSigner
from wrenn.control.password_reset import PasswordReset
from wrenn.control.profile import Profiles
from wrenn.control.proxy import AccessTokens, Links, TrafficTokens
from wrenn.control.quotas.service import Quotas
from wrenn.control.registries import RegistryCredentials
from wrenn.control.sandboxes import (
    Creations,
    Deletions,
    DescriptionChanges,
    Disks,
    Forks,
    Lookup,
    Moves,
    Networks,
    Pauses,
    Recoveries,
    Resumes,
    RunningSandboxes,
    TimeLimitChanges,
)
from wrenn.control.sessions import LinkLogin, PasswordLogin, Sessions
from wrenn.control.snapshots import Snapshots
from wrenn.control.teams import Invitations, Teams
from wrenn.control.templates import Templates


@dataclass(frozen=True, slots=True)
class Services:
    """One service of each type."""

    authenticator: Authenticator
    tokens: Tokens
    browsers: Browsers
    port_domain: PortDomain
    password_login: PasswordLogin
    link_login: LinkLogin
    sessions: Sessions
    sign_in: SignIn
    profiles: Profiles
    password_reset: PasswordReset
    teams: Teams
    invitations: Invitations
    keys: Keys
    administration: Administration
    lookup: Lookup
    sandbox_metrics: SandboxMetrics
    platform_usage: PlatformUsage
    live_metrics: LiveMetrics
    team_metrics: TeamMetrics
    received_samples: ReceivedSamples
    creations: Creations
    pauses: Pauses
    resumes: Resumes
    moves: Moves
    recoveries: Recoveries
    deletions: Deletions
    time_limit_changes: TimeLimitChanges
    description_changes: DescriptionChanges
    forks: Forks
    disks: Disks
    networks: Networks
    running_sandboxes: RunningSandboxes
    commands: Commands
    files: Files
    downloads: Downloads
    inspection: Inspection
    streams: Streams
    snapshots: Snapshots
    templates: Templates
    builds: Builds
    registry_credentials: RegistryCredentials
    links: Links
    access_tokens: AccessTokens
    traffic_tokens: TrafficTokens
    e2b_sandboxes: E2bSandboxes
    e2b_templates: E2bTemplates
    e2b_snapshots: E2bSnapshots
    e2b_logs: E2bLogs
    e2b_metrics: E2bMetrics
    quotas: Quotas
    audit_log: AuditLog
    events: Events
    fleet: Fleet
    drains: Drains
    enrolment: Enrolment
    url_signer: UrlSigner
    host_images: HostImages
    served_objects: ServedObjects
