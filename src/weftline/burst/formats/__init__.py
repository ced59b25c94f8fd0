"""Checkpoints of other tools, in and out."""
