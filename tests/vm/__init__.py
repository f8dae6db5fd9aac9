"""Tests with real virtual machines. They need root, QEMU and the built images (`make images`)."""
