"""The forms in which records come, one module each."""
