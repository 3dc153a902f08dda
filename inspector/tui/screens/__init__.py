"""The main screen and the small ones around it."""
