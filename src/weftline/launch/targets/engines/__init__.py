"""Serving engines: a fleet's replica as the command that serves it."""
