"""The compiled loops of this room, one file a job."""
