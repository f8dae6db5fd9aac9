"""Simulation of a host in one event loop: real agents, guests in memory, virtual time, everything random from one seed.

`World` is the machine, `SimulatedAgent` an agent on it, `Guest` the guest. Faults are armed while it runs: `World.faults_of` and
`World.kill_later` for guests, `SimulatedAgent.kill` for agents, `wrenn.base.faults` for steps of an operation.
"""

from wrenn.testing.simulation.agent import SimulatedAgent, WorldHost
from wrenn.testing.simulation.guest import Guest, GuestFaults, GuestMemory
from wrenn.testing.simulation.network import Network, NetworkLoop
from wrenn.testing.simulation.program import Program, ProgramKilled
from wrenn.testing.simulation.tree import Tree
from wrenn.testing.simulation.world import World, seeded_randomness

__all__ = [
    "Guest",
    "GuestFaults",
    "GuestMemory",
    "Network",
    "NetworkLoop",
    "Program",
    "ProgramKilled",
    "SimulatedAgent",
    "Tree",
    "World",
    "WorldHost",
    "seeded_randomness",
]
