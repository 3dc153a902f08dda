"""`python -m inspector` is `hsdp-inspect`."""

from inspector.cli import main

if __name__ == "__main__":
    main()
