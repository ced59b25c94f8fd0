"""Builders of shapes that many families share, told apart by rows of a table."""
