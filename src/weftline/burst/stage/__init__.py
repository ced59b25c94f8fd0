"""From the user's memory to ours: parts of a state, the arena, the streaming copy with its hash."""
