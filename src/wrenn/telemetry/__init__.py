"""What a program tells Prometheus: its metrics, how requests are counted, and the port where they are read."""

from wrenn.telemetry.metrics import Metrics
from wrenn.telemetry.requests import PORT, ROUTE, RequestMetrics
from wrenn.telemetry.server import serving_metrics

__all__ = ["PORT", "ROUTE", "Metrics", "RequestMetrics", "serving_metrics"]
