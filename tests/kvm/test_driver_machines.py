"""The machines of tests/drivers, by the drivers in the host machine."""

from tests.drivers.test_machines import *  # noqa: F403
