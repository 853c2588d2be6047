"""Fusion: groups of nodes that one kernel computes become one node."""
