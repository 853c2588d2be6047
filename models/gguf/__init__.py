"""The GGUF container, with the ternary tensor types that other readers refuse."""
