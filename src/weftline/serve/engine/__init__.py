"""What an engine does in one step, and how long that takes: configuration, memory, closed form."""
