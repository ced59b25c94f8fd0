"""What a training script sees after weftline_place.py: its rank, and where rank 0 listens."""

import os
import sys

# Line and newline in one write: ranks share a pipe, and print() writes two where Python is
# unbuffered, so that two ranks' lines ran into each other.
sys.stdout.write(
    f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, chip {os.environ['LOCAL_RANK']}, "
    f"rank 0 at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}\n"
)
