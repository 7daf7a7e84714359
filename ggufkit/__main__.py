"""`python -m ggufkit` is the `ggufkit` command."""

from ggufkit.cli import main

if __name__ == "__main__":
    main()
