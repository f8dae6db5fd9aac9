"""`wrenn up` and `wrenn down`: the whole platform on one machine.

`commands` parses and prints; `bring_up` and `take_down` start and stop the platform; `supervisor` restarts
programs that died; `daemons` starts and stops one program; `layout` defines the paths in the data folder.
"""
