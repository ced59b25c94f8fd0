"""Training as planned: a recipe made of a plan, transformers' modules laid out, and the loop."""
