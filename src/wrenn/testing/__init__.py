"""For tests, ours and users': a simulated host, servers inside the test's event loop, a clock that stands still."""
