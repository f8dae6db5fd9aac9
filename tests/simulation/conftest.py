"""One PostgreSQL for all simulations of fleets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.database import Server, postgres_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server
