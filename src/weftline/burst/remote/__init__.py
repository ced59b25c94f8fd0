"""Beyond this disk: object stores, draining, peers; REMOTE.md describes the objects."""
