"""View 4: a verification as it runs, and recorded ones."""
