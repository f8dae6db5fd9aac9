"""Attacks on a running platform: what a hostile guest or a greedy tenant does must not slow a neighbour or outlive its deletion."""
