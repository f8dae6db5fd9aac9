"""Host agent: one per machine; starts and supervises its VMs.

`sandboxes/` a file for each operation, `bases.py` warm snapshots, `recovery/` after a restart, `rpc/` the thin edge, `doctor/` what
nobody owns.
"""
