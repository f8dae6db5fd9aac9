"""Sandboxes of this host: `registry.py` tracks and locks them; each operation has its own file.

`journal.py` is what outlives the agent, `launch.py` is what create and resume share, and `save_vm.py` what pause and snapshot share.
"""

from wrenn.agent.sandboxes.journal import NetworkSettings, Record, SandboxSpec, State
from wrenn.agent.sandboxes.operations import Operations
from wrenn.agent.sandboxes.registry import Sandboxes
from wrenn.agent.sandboxes.running import GuestStream, RunningSandbox

__all__ = [
    "GuestStream",
    "NetworkSettings",
    "Operations",
    "Record",
    "RunningSandbox",
    "SandboxSpec",
    "Sandboxes",
    "State",
]
