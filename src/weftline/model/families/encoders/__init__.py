"""Models whose attention looks both ways: BERT, T5 and the diffusion transformers."""
