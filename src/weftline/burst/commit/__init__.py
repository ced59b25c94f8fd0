"""A checkpoint exists or not: identity, commit records, the view of a store, the coordinator."""
