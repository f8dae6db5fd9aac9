"""The real control plane and real agents on simulated hosts, in virtual time: for each seed another life, see `fleet_scenario.py`.

`make simulate SEEDS=1000` runs more seeds, each of them twice; `make simulate SEEDS=1 FIRST_SEED=42` replays one
(with the hash seed of the Makefile, on which the order of sets depends). Without
a number there are 20, and only the first is run twice: a run takes about 4 s of CPU time, and PostgreSQL one more.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.database import Server
from tests.simulation.fleet_scenario import play

# A connection attempt that is cancelled when it has just succeeded leaves its socket to the interpreter (aiohappyeyeballs).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

FIRST_SEED = int(os.environ.get("WRENN_FIRST_SEED", "1"))
SEEDS = int(os.environ.get("WRENN_SEEDS", "20"))
ALL_TWICE = "WRENN_SEEDS" in os.environ


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_a_fleet_comes_to_one_truth_after_any_faults_and_each_run_of_a_seed_is_the_same(
    seed: int, server: Server
) -> None:
    log = play(seed, server)
    if ALL_TWICE or seed == FIRST_SEED:
        assert play(seed, server) == log, f"seed {seed}"
