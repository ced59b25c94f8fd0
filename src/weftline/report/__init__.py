"""One result, three forms: terminal, HTML page, JSON."""
