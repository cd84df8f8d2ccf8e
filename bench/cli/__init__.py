"""A file a command: its flags and what it prints.

app            the command line itself, and its exit codes
console        what the commands share; groups: the boxes of their help
output_folder  files that a command wrote, told from those that it did not
catalogue      selectors/README.md
"""

from bench.cli.app import main

__all__ = ["main"]
