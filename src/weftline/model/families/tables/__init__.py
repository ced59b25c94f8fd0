"""Families that differ in what a row of a table states: one row a model type."""
