"""The layers of tests/drivers, by the drivers in the host machine."""

from tests.drivers.test_layers import *  # noqa: F403
