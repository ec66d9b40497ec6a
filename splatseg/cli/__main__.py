"""``python -m splatseg.cli``."""

from splatseg.cli.command import main

if __name__ == "__main__":
    main()
