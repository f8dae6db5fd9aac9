"""Sandboxes of this host: `registry.py` knows them, `bring_up.py` and `tear_down.py` make and unmake them."""

from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.agent.sandboxes.registry import Sandboxes
from wrenn.agent.sandboxes.running import RunningSandbox

__all__ = ["Record", "RunningSandbox", "SandboxSpec", "Sandboxes", "State"]
