"""The model of a training step: layouts, their memory, their work, and the seconds it takes."""
