"""`wrenn up` and `wrenn down`: the whole platform on one machine.

`commands` parses and prints; `bring_up` and `take_down` are the two ways; `supervisor` keeps the programs running;
`daemons` starts and stops one program; `layout` says where in the data folder things are.
"""
