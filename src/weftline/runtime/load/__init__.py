"""Load for a server that speaks OpenAI's API, and what came of it as rows."""
