"""Host agent: one per machine, owns its VMs. It knows what runs; the database knows what should.

`sandboxes/` a file a verb, `bases.py` warm snapshots, `recovery/` after a restart, `rpc/` the thin edge, `doctor/` what
nobody owns.
"""
