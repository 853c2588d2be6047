"""bitgraph: LoRA fine-tuning and generation for BitNet b1.58 as a compiled tensor graph."""

__version__ = "0.1.0"
