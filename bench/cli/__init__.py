"""A file a command: its flags and what it prints."""

from bench.cli.app import main

__all__ = ["main"]
