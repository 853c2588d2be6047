"""Checkpointing: what backward reads is saved or recomputed, layer by layer, under a budget.

Read `checkpoint` for the pass, then `cut` (inside a layer), `choice` (across layers) and `rewrite`.
"""
