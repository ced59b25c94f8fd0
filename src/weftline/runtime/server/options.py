"""How the own engine and its server are run, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["EngineOptions", "ServerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the own engine runs a model."""

    policy: str | None = None
    """What queries see: window=512,sinks=4, topk=12.5%,block=128, or a policy.yaml."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products; auto measures which is faster on this machine."""
    weights: Literal["as-is", "int8"] = "as-is"
    """int8 keeps a byte a weight of the layers, and a scale a row."""
    adapter: Path | None = None
    """Folder of adapters as peft writes them, added into the weights as they are read."""
    kv: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Number format of the KV cache; auto takes that of the products."""
    kv_memory: str = "25%"
    """Of the KV cache: bytes (2GB), or a share of the memory that is free."""
    page: int = 64
    """Tokens a page of it, a multiple of 16 up to 256."""
    max_len: int | None = None
    """Tokens of a sequence with its answer; the model's own limit if not given."""
    max_sequences: int = 64
    """Sequences that run at once."""
    chunk_tokens: int = 512
    """Tokens a step: prompts are cut to what decoding leaves of it."""
    max_waiting: int = 256
    """Requests that may wait; one more is told to come back (429)."""
    prefix_cache: bool = True
    """Keep pages of past prompts for those that begin alike."""
    threads: int | None = None
    """Threads; all cores if not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server listens and whom it answers."""

    host: str = "127.0.0.1"
    """Address; anything but loopback wants a key."""
    port: int = 8000
    """0 takes a free one and says which."""
    name: str | None = None
    """The model's name for clients; its folder's name if not given."""
    api_key_file: Path | None = None
    """File with the key that clients must send; else WEFTLINE_API_KEY, else none is needed."""
    grace: str = "30s"
    """How long running answers may take to end when the server is told to stop."""
