"""The engines a plan is written for: one module a target, each with a table of what it maps."""
