"""What is wrong with a checkpoint, mended in a new folder where the files themselves tell how."""
