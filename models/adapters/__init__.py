"""LoRA adapters on disk."""
