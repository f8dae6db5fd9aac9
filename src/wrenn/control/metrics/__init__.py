"""What sandboxes use (`sandbox_metrics`, from their hosts and from stored samples), and what teams have over time (`team_metrics`)."""

from wrenn.control.metrics import routes, team_routes
from wrenn.control.metrics.live import LiveMetrics
from wrenn.control.metrics.received_samples import ReceivedSamples
from wrenn.control.metrics.retention import SampleRetention
from wrenn.control.metrics.sandbox_metrics import SandboxMetrics
from wrenn.control.metrics.team_metrics import TeamMetrics
from wrenn.control.metrics.team_sampler import TeamSampler

routers = (routes.router, team_routes.stats_router)
usage_router = team_routes.usage_router
host_router = routes.host_router

__all__ = [
    "LiveMetrics",
    "ReceivedSamples",
    "SampleRetention",
    "SandboxMetrics",
    "TeamMetrics",
    "TeamSampler",
    "host_router",
    "routers",
    "usage_router",
]
