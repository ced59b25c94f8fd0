"""Frameworks that people train with, and their checkpoints in a burst store."""
