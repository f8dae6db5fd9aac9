"""Sandboxes of this host: `registry.py` knows them and decides when, `verbs.py` and a file a verb do it.

`journal.py` is what outlives the agent, `launch.py` what create and resume share, `save.py` what pause and snapshot share.
"""

from wrenn.agent.sandboxes.journal import NetworkSettings, Record, SandboxSpec, State
from wrenn.agent.sandboxes.registry import Sandboxes
from wrenn.agent.sandboxes.running import GuestStream, RunningSandbox
from wrenn.agent.sandboxes.verbs import Verbs

__all__ = [
    "GuestStream",
    "NetworkSettings",
    "Record",
    "RunningSandbox",
    "SandboxSpec",
    "Sandboxes",
    "State",
    "Verbs",
]
