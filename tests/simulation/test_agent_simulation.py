"""The real agent on a simulated host, in virtual time: for each seed another life with faults, see `scenario.py`.

`make simulate SEEDS=1000` runs more seeds; `make simulate SEEDS=1 FIRST_SEED=42` replays one.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.scenario import play

# A connection attempt that is cancelled when it has just succeeded leaves its socket to the interpreter (aiohappyeyeballs).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

FIRST_SEED = int(os.environ.get("WRENN_FIRST_SEED", "1"))
SEEDS = int(os.environ.get("WRENN_SEEDS", "20"))


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_a_host_comes_to_order_after_any_faults_and_each_run_of_a_seed_is_the_same(seed: int) -> None:
    first, second = play(seed), play(seed)
    assert first == second, f"seed {seed}"
