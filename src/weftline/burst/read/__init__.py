"""What was written: chunks that heal, restoring tensors, looking for damage."""
