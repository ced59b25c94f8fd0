"""Placeholder."""


def parameter_table() -> list[object]:
    return []
