"""What clients may ask for, in the words of OpenAI's completions and chat completions.

Fields nobody here knows are passed over, as other servers do, for clients send many; fields that
would change the answer and are not done here are refused.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from weftline.runtime.server.engine.requests import Sampling

__all__ = [
    "Asked",
    "ChatAsked",
    "CompletionAsked",
    "StreamOptions",
    "ToDetokenize",
    "ToTokenize",
    "sampling_of",
]

CHOICES_MAX: Final = 128
LOGPROBS_MAX: Final = 20
_UNDONE: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (None, 1), "suffix": (None, ""), "tools": (None, []), "functions": (None, []),
    "tool_choice": (None, "none", "auto"), "audio": (None,), "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}), "repetition_penalty": (None, 1, 1.0),
    "min_p": (None, 0, 0.0), "use_beam_search": (None, False), "guided_json": (None,),
    "guided_regex": (None,), "guided_choice": (None,), "guided_grammar": (None,),
    "structured_outputs": (None,), "prompt_embeds": (None,),
}  # fmt: skip
"""Fields that are not done, and the values under which that changes nothing."""


def _strings(value: object) -> object:
    return [] if value is None else [value] if isinstance(value, str) else value


TokenId = Annotated[int, Field(ge=0)]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(max_length=16), BeforeValidator(_strings),
]  # fmt: skip


class StreamOptions(BaseModel):
    """What a stream tells beside its text."""

    include_usage: bool = False
    """Tokens, in a chunk at the end."""
    continuous_usage_stats: bool = False
    """And so far, in every chunk."""


class Asked(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    n: int = Field(default=1, ge=1, le=CHOICES_MAX)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: Stops = []
    stop_token_ids: list[TokenId] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool = False
    min_tokens: int = Field(default=0, ge=0)
    include_stop_str_in_output: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_undone(cls, data: Any) -> Any:
        if isinstance(data, dict):
            undone = [name for name, fine in _UNDONE.items()
                      if name in data and data[name] not in fine]  # fmt: skip
            if undone:
                raise ValueError(f"not done by this server: {', '.join(undone)}")
        return data


class CompletionAsked(Asked):
    """``/v1/completions``."""

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=256)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=256)
        ]
    )
    max_tokens: int | None = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=LOGPROBS_MAX)
    echo: bool = False

    def prompts(self) -> list[str | list[int]]:
        """One entry a prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast("list[str | list[int]]", self.prompt)


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None


class ChatAsked(Asked):
    """``/v1/chat/completions``."""

    messages: list[_Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=LOGPROBS_MAX)

    @model_validator(mode="after")
    def _together(self) -> ChatAsked:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    def plain_messages(self) -> list[dict[str, str]]:
        """Role and text of each."""
        return _plain(self.messages)


class ToTokenize(BaseModel):
    """``/tokenize``: a prompt, or a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = Field(default=None, min_length=1, max_length=4096)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False

    @model_validator(mode="after")
    def _one(self) -> ToTokenize:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a prompt or messages, one of them")
        return self

    def plain_messages(self) -> list[dict[str, str]]:
        """Role and text of each."""
        return _plain(self.messages or [])


class ToDetokenize(BaseModel):
    """``/detokenize``."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    model: str | None = None
    tokens: list[TokenId]


def _plain(messages: list[_Message]) -> list[dict[str, str]]:
    return [
        {"role": "system" if m.role == "developer" else m.role,
         "content": m.content if isinstance(m.content, str)
         else "".join(part.text for part in m.content or [])}
        for m in messages
    ]  # fmt: skip


def sampling_of(
    asked: Asked, *, room: int, ends: frozenset[int], vocabulary: int, choice: int
) -> Sampling:
    """What the engine is told for one choice; ``room`` is what the sequence has left.

    Raises ValueError for what does not fit this model.
    """
    told: int | None
    rated = False
    if isinstance(asked, ChatAsked):
        most = asked.max_completion_tokens or asked.max_tokens or room
        told = (asked.top_logprobs or 0) if asked.logprobs else None
    else:
        assert isinstance(asked, CompletionAsked)  # noqa: S101
        most = room if asked.max_tokens is None else asked.max_tokens
        told, rated = asked.logprobs, asked.echo and asked.logprobs is not None
    if most > room:
        raise ValueError(f"{most} tokens are asked for; the sequence has room for {room}")
    bias = {_token(text, vocabulary): value for text, value in (asked.logit_bias or {}).items()}
    if any(not -100 <= value <= 100 for value in bias.values()):
        raise ValueError("logit_bias: values lie in [-100, 100]")
    seed = secrets.randbits(63) if asked.seed is None else asked.seed % 2**64
    own = frozenset(asked.stop_token_ids or ())
    return Sampling(
        max_tokens=most, temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=asked.top_p or 1.0, top_k=max(0, asked.top_k or 0), seed=(seed + choice) % 2**64,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0, logit_bias=bias,
        ignore_eos=asked.ignore_eos, min_tokens=min(asked.min_tokens, most),
        stop_ids=own if asked.ignore_eos else own | ends, logprobs=told, prompt_logprobs=rated,
    )  # fmt: skip


def _token(text: str, vocabulary: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= vocabulary:
        raise ValueError(f"logit_bias: `{text[:32]}` is no token of this model (0 to "
                         f"{vocabulary - 1})")  # fmt: skip
    return int(text)
