"""The ops: one record each, grouped by family."""
