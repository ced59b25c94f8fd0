"""Descriptions of clusters without link speeds: schedulers, clouds, labels, cabling."""
