"""What sandboxes use (`sandbox_metrics`, from their hosts and from stored samples), and what teams have over time."""

from wrenn.control.metrics.received_samples import ReceivedSamples
from wrenn.control.metrics.retention import SampleRetention
from wrenn.control.metrics.routes import host_router, router
from wrenn.control.metrics.sandbox_metrics import SandboxMetrics

__all__ = ["ReceivedSamples", "SampleRetention", "SandboxMetrics", "host_router", "router"]
