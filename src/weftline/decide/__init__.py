"""Decisions over plans: the whole life of a model, its rules, its capacity, published claims."""
