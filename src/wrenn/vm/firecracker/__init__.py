"""Firecracker. So far: its API (`api.py`). The driver is not built yet; docs/design/vm-firecracker.md says what is missing."""
