"""What keeps a run going: the parent of the workers, its watch, its ledger, and failures on command."""
