"""What looks at the job itself: torch's own reading of the metadata, a plain one, and canaries."""
