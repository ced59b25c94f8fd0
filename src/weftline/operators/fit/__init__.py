"""Fitting the operators' tables to kernel measurements; no prediction runs this."""
