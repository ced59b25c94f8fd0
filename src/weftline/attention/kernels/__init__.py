"""Paged attention on CPUs: compiled once a machine, with numba where no compiler is."""
