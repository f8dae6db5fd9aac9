"""Test utilities, for our tests and users': simulated hosts and servers inside the test's event loop."""
