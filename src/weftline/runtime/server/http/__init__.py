"""The door for clients: OpenAI's completions and chat completions over one engine."""
