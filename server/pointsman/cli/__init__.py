"""The command line, on the same code as the service."""

from pointsman.cli.app import main

__all__ = ["main"]
