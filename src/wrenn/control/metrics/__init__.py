"""What sandboxes use (`sandbox_metrics`, from their hosts and from stored samples), and what teams have over time (`team_metrics`)."""

from wrenn.control.metrics import admin_routes, routes, team_routes
from wrenn.control.metrics.create_counts import CreateCounts
from wrenn.control.metrics.live import LiveMetrics
from wrenn.control.metrics.platform_usage import PlatformUsage
from wrenn.control.metrics.ranges import SampleRange
from wrenn.control.metrics.received_samples import ReceivedSamples
from wrenn.control.metrics.retention import SampleRetention
from wrenn.control.metrics.sandbox_metrics import SandboxMetrics
from wrenn.control.metrics.team_metrics import TeamMetrics
from wrenn.control.metrics.team_sampler import TeamSampler

routers = (routes.router, team_routes.stats_router)
usage_router = team_routes.usage_router
host_router = routes.host_router
admin_router = admin_routes.router

__all__ = [
    "CreateCounts",
    "LiveMetrics",
    "PlatformUsage",
    "ReceivedSamples",
    "SampleRange",
    "SampleRetention",
    "SandboxMetrics",
    "TeamMetrics",
    "TeamSampler",
    "admin_router",
    "host_router",
    "routers",
    "usage_router",
]
