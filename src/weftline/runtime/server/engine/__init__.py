"""Requests in, tokens out: pages, scheduler, a transformers model over them, and the loop."""
