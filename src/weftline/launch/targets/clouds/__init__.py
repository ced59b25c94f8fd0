"""Clouds that bring up the machines themselves: SkyPilot, TPU queues, AWS, dstack."""
