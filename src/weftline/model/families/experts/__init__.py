"""Decoders that route tokens to experts, with a file of their own."""
