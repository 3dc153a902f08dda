"""What the metadata alone tells: entries, chunks, byte ranges, optimizer state."""
