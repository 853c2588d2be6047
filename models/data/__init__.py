"""From instruction records to token batches."""
