"""For tests, ours and users': a simulated host and servers inside the test's event loop."""
