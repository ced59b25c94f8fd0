"""Decoders that keep a recurrent state, in some of their layers or in all."""
