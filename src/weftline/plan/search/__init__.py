"""The best layout, count and chip for a job, why it won, and what would flip it."""
