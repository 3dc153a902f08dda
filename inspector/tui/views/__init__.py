"""The views of the main screen, on the keys 1 to 9."""
