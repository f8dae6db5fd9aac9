"""Builds the application: which router serves which prefix, the API of e2b beside it, the dashboard and the visits of ports."""

from __future__ import annotations

from typing import Final

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
from wrenn.control.builds import admin_routers as build_admin_routers
from wrenn.control.builds import routers as build_routers
from wrenn.control.e2b import (
    E2bEdge,
    build_e2b_app,
)
from wrenn.control.events import routers as event_routers
from wrenn.control.guests import link_router
from wrenn.control.guests import routers as guest_routers
from wrenn.control.http import BehindProxies, LocalNamesOnly, is_local_name
from wrenn.control.http.app import api_router, build_app, route_of
from wrenn.control.images import router as image_router
from wrenn.control.images import store_router
from wrenn.control.proxy import (
    OpenVisits,
    PortProxy,
    Visits,
)
from wrenn.control.proxy import routers as port_routers
from wrenn.control.quotas import routes as quota_routes
from wrenn.control.sandboxes import routers as sandbox_routers
from wrenn.control.services import Services
from wrenn.control.snapshots import routers as snapshot_routers
from wrenn.control.templates import admin_routers as template_admin_routers
from wrenn.control.templates import routers as template_routers
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

from .base import Base
from .parts import Parts

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


def build_application(base: Base, parts: Parts, services: Services, metrics: Metrics) -> BehindProxies:
    """Return the application that the server runs. `metrics` counts its requests."""
    app = build_app(API, services, parts.rates)
    public_url = base.settings.accounts.public_url
    dashboard.install(app, dashboard.BuiltDashboard.load(dashboard.BUILT, public_url))
    is_behind_names = bool(base.settings.domain or base.settings.accounts.trusted_proxies)
    api = (
        app
        if is_behind_names or not is_local_name(base.settings.listen_host)
        else LocalNamesOnly(app, public_url)
    )
    proxy = PortProxy(
        E2bEdge(api, build_e2b_app(services, parts.rates), domain=base.settings.domain),
        Visits(
            access=parts.ports.access,
            access_tokens=services.access_tokens,
            locations=parts.ports.locations,
            rates=parts.rates,
            open_calls=parts.auth.open_calls,
            public_visits=parts.ports.public_visits,
            open_visits=OpenVisits(),
        ),
        parts.ports.signed_files,
    )
    return BehindProxies(RequestMetrics(proxy, metrics, "wrenn_http", route_of), services.browsers)
