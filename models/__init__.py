"""What is built from graphs: BitNet, its files, its data and its training."""
