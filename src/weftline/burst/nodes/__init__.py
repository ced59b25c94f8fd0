"""Nodes with disks of their own: copies in each other's memory, one commit, one newest step."""
