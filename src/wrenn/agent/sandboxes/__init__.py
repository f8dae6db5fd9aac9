"""Sandboxes of this host: `registry.py` tracks and locks them; each operation has its own file.

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
