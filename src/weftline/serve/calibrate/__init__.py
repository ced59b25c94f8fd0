"""Measured serving points, the constants fitted to them, and how far off predictions may be."""
