"""A process group that executes the fabric room's schedules between processes."""
