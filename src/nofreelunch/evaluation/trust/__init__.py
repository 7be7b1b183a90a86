"""Checks of whether a figure can be trusted: small functions that return flags, and the measures on which those go."""
