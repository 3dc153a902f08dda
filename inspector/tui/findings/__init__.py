"""View 3: what is wrong, and the checks that find it."""
