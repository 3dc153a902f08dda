"""The command line: arguments -> one call -> one exit code."""
