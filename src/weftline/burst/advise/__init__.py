"""How often to save and what that costs: intervals, measurement of a disk, counters."""
