"""Samples of what sandboxes use: `sampler.py` takes them, `series.py` keeps them in memory, `outbox.py` those that the control plane is to store, `sending.py` sends them."""

from wrenn.agent.metrics.outbox import Outbox
from wrenn.agent.metrics.sampler import Sampler, SamplerSettings
from wrenn.agent.metrics.sending import MetricsSender

__all__ = ["MetricsSender", "Outbox", "Sampler", "SamplerSettings"]
