"""Training frameworks: a plan's layout as their own arguments."""
