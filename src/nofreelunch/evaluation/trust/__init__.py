"""Checks of whether a figure can be trusted, each a small function that returns a `Flag` or nothing."""
