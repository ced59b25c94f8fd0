"""transformers' Trainer: ``BurstCallback(store)`` and ``resume_from_checkpoint``."""

from weftline.burst.frameworks.huggingface import BurstCallback, resume_from_checkpoint

__all__ = ["BurstCallback", "resume_from_checkpoint"]
