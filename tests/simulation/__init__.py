"""Hosts in memory and virtual time: random lives from seeds, and single faults."""
