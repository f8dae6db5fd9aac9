"""Programs that `kit.py` starts: an agent in a network namespace of its own."""

from __future__ import annotations

import os

from wrenn.linux import syscalls
from wrenn.linux.namespaces import namespace_path
from wrenn.testing import simulated_agent

NAMESPACE = "WRENN_TEST_NAMESPACE"


def agent() -> None:
    """Run the agent over the simulated driver in the namespace that the environment names."""
    descriptor = os.open(namespace_path(os.environ[NAMESPACE]), os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
    os.close(descriptor)
    simulated_agent.run()
