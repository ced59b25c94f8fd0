"""What keeps a run going: the parent of the ranks, its watch and ledger, failures on command."""
