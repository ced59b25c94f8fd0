"""Decoders that began dense, with a file of their own; variants with experts stand beside."""
