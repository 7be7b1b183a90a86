"""Models that look more robust than they are, honest ones beside them, and the truth about each."""
