"""What is optional: models, history, the console, the command line. All of it is written with agents."""

__all__: list[str] = []
