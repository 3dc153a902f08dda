"""The screen in a browser on this machine: a small server, and a process for each session."""
