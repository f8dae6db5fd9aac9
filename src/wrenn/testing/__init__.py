"""Test utilities, for our tests and users': agents over the simulated driver, and servers inside the test's event loop."""
