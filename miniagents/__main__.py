"""`python -m miniagents`: the same as the command `miniagents`."""

from miniagents.ext.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
