"""Builds what endpoints call, from the features."""

from __future__ import annotations

from wrenn.base.output_buffer import OutputBudget, OutputLimits
from wrenn.control.audit_log import AuditLog
from wrenn.control.e2b import (
    BuilderFiles,
    E2bLogs,
    E2bMetrics,
    E2bSandboxes,
    E2bSnapshots,
    E2bTemplates,
    TemplateLookup,
)
from wrenn.control.events import Events
from wrenn.control.guests import Commands, Downloads, Files, Inspection, Streams
from wrenn.control.http import Browsers, PortDomain
from wrenn.control.images import ServedObjects
from wrenn.control.keys import Keys
from wrenn.control.metrics import (
    LiveMetrics,
    PlatformUsage,
    ReceivedSamples,
    SandboxMetrics,
    TeamMetrics,
)
from wrenn.control.quotas.service import Quotas
from wrenn.control.services import Services

from .base import Base
from .parts import Parts


def build_services(base: Base, parts: Parts) -> Services:
    """Return the services that endpoints find by their types."""
    auth, sandboxes, images, accounts = parts.auth, parts.sandboxes, parts.images, parts.accounts
    files = Files(sandboxes.running_sandboxes)
    sandbox_metrics = SandboxMetrics(
        database=base.database, lookup=sandboxes.lookup, clients=base.clients, clock=base.clock
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
        access_tokens=parts.access_tokens,
        traffic_tokens=parts.traffic_tokens,
    )
    inspection = Inspection(sandboxes.running_sandboxes)
    return Services(
        authenticator=auth.authenticator,
        tokens=auth.tokens,
        browsers=Browsers(base.settings.accounts.public_url, base.settings.accounts.trusted_proxies),
        port_domain=PortDomain(base.settings.domain),
        password_login=accounts.password_login,
        link_login=accounts.link_login,
        sessions=accounts.sessions,
        sign_in=accounts.sign_in,
        profiles=accounts.profiles,
        password_reset=accounts.password_reset,
        teams=accounts.teams,
        invitations=accounts.invitations,
        keys=Keys(database=base.database, clock=base.clock),
        administration=accounts.administration,
        lookup=sandboxes.lookup,
        sandbox_metrics=sandbox_metrics,
        platform_usage=PlatformUsage(database=base.database, clients=base.clients),
        live_metrics=LiveMetrics(
            database=base.database,
            metrics=sandbox_metrics,
            authenticator=auth.authenticator,
            open_calls=auth.open_calls,
        ),
        team_metrics=TeamMetrics(database=base.database, clock=base.clock),
        received_samples=ReceivedSamples(database=base.database, tokens=auth.tokens, clock=base.clock),
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
        downloads=Downloads(database=base.database, lookup=sandboxes.lookup, files=files),
        inspection=inspection,
        streams=Streams(sandboxes.running_sandboxes),
        snapshots=sandboxes.snapshots,
        templates=sandboxes.templates,
        builds=parts.builds,
        registry_credentials=parts.registry_credentials,
        links=parts.ports.links,
        access_tokens=parts.access_tokens,
        traffic_tokens=parts.traffic_tokens,
        e2b_sandboxes=e2b_sandboxes,
        e2b_snapshots=E2bSnapshots(
            sandboxes=e2b_sandboxes, snapshots=sandboxes.snapshots, templates=sandboxes.templates
        ),
        e2b_templates=E2bTemplates(
            database=base.database,
            builds=parts.builds,
            templates=sandboxes.templates,
            files=BuilderFiles(
                database=base.database, objects=images.objects, scratch=parts.scratch, secret=auth.secret
            ),
        ),
        e2b_logs=E2bLogs(sandboxes=e2b_sandboxes, inspection=inspection),
        e2b_metrics=E2bMetrics(sandboxes=e2b_sandboxes, metrics=sandbox_metrics, clock=base.clock),
        quotas=Quotas(database=base.database, find_quota_status=sandboxes.capacity.quota_status),
        audit_log=AuditLog(base.database),
        events=Events(
            database=base.database,
            authenticator=auth.authenticator,
            feed=parts.feed,
            open_calls=auth.open_calls,
        ),
        fleet=parts.hosts.fleet,
        drains=parts.hosts.drains,
        enrolment=parts.hosts.enrolment,
        url_signer=images.url_signer,
        host_images=images.host_images,
        served_objects=ServedObjects(images.objects),
    )
