"""The metadata against the files of the folder, and folders without metadata."""
