"""What keeps a store going: retention, free space, recovery, repair."""
