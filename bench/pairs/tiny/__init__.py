"""The embedded pairs: how they were made, measured and described."""
