"""Measured runs, the constants fitted to them, what is left over, and the score."""
