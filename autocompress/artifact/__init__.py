"""The folder that ships: its manifest and its card."""
