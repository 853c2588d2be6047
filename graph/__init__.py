"""The tensor graph: types, nodes, text and binary forms, verifier and ops."""
