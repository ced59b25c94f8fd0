"""Answers in the shapes of OpenAI's API, whole and as chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from weftline.runtime.server.engine.requests import Finish, Logprobs, Request, Token
from weftline.runtime.server.http.text import TextStream

__all__ = ["Choice", "Shape", "usage_of"]


@dataclass(slots=True)
class Choice:
    """One answer on its way out."""

    index: int
    request: Request
    text: TextStream
    said: str = ""
    """Text told so far."""
    told: list[tuple[int, Logprobs, int]] = field(default_factory=list)
    """Token, its logprobs, where its text begins."""
    finish: Finish | None = None

    def take(self, token: Token) -> str:
        """The text that a token makes certain."""
        begin = len(self.said)
        piece = ""
        ends = token.finish == "stop" and token.id in self.request.sampling.stop_ids
        if token.id is not None:
            if token.logprobs is not None:
                self.told.append((token.id, token.logprobs, begin))
            piece = "" if ends else self.text.add(token.id)
        if self.text.stopped is not None:
            self.finish = "stop"
        elif token.finish:
            self.finish = token.finish
            piece += self.text.end()
            self.finish = "stop" if self.text.stopped is not None else self.finish
        self.said += piece
        return piece


@dataclass(frozen=True, slots=True)
class Shape:
    """How one endpoint writes what it says."""

    id: str
    model: str
    chat: bool
    tokenizer: Any
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[Choice], prompts: list[str]) -> dict[str, Any]:
        """The answer in one piece."""
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": [self._choice(choice, prompts[choice.index]) for choice in choices],
            "usage": usage_of(choices),
        }

    def chunk(self, choice: Choice, piece: str, *, first: bool, prompt: str = "") -> dict[str, Any]:
        """A piece of a choice."""
        logprobs = self._logprobs(choice, "", clear=True)
        finish = choice.finish
        if self.chat:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            body: dict[str, Any] = {"delta": {**delta, "content": piece}}
        else:
            body = {"text": (prompt if first else "") + piece}
        return {
            **self._head("chat.completion.chunk" if self.chat else "text_completion"),
            "choices": [{"index": choice.index, **body, "logprobs": logprobs,
                         "finish_reason": finish}],
        }  # fmt: skip

    def end(self, choices: list[Choice]) -> dict[str, Any]:
        """The last chunk of a stream that was asked to count."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return {**head, "choices": [], "usage": usage_of(choices)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, choice: Choice, prompt: str) -> dict[str, Any]:
        logprobs = self._logprobs(choice, prompt)
        body: dict[str, Any] = {"index": choice.index}
        if self.chat:
            body["message"] = {"role": "assistant", "content": choice.said}
        else:
            body["text"] = prompt + choice.said
        return {**body, "logprobs": logprobs, "finish_reason": choice.finish}

    def _logprobs(self, choice: Choice, prompt: str, *, clear: bool = False) -> Any:
        told = list(choice.told)
        if clear:
            choice.told.clear()
        if choice.request.sampling.logprobs is None:
            return None
        if self.chat:
            return {"content": [self._chat_token(token, value) for token, value, _ in told]}
        return self._completion(choice, told, prompt)

    def _completion(
        self, choice: Choice, told: list[tuple[int, Logprobs, int]], prompt: str
    ) -> dict[str, Any]:
        """Four lists of one length; an echoed prompt stands in front, its first token unrated."""
        rows: list[tuple[str, float | None, dict[str, float] | None, int]] = []
        request = choice.request
        if prompt and request.prompt_logprobs:
            at = 0
            for token, logprobs in zip(request.prompt, request.prompt_logprobs, strict=True):
                word = self._word(token)
                if logprobs is None:
                    rows.append((word, None, None, at))
                else:
                    rows.append((word, logprobs.logprob, self._tops(token, logprobs), at))
                at += len(word)
        for token, logprobs, begin in told:
            rows.append((self._word(token), logprobs.logprob, self._tops(token, logprobs),
                         len(prompt) + begin))  # fmt: skip
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
        return dict(zip(names, columns, strict=True))

    def _tops(self, token: int, logprobs: Logprobs) -> dict[str, float]:
        found = {self._word(t): value for t, value in logprobs.top}
        return {**found, self._word(token): logprobs.logprob}

    def _chat_token(self, token: int, logprobs: Logprobs) -> dict[str, Any]:
        tops = [self._one(t, value) for t, value in logprobs.top]
        return {**self._one(token, logprobs.logprob), "top_logprobs": tops}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        word = self._word(token)
        return {"token": word, "logprob": logprob, "bytes": list(word.encode())}

    def _word(self, token: int) -> str:
        word: str = self.tokenizer.decode([token])
        return word


def usage_of(choices: list[Choice]) -> dict[str, Any]:
    """Tokens; a prompt with several choices counts once."""
    prompts = {id(choice.request.prompt): choice.request for choice in choices}
    prompt = sum(len(r.prompt) for r in prompts.values())
    made = sum(choice.request.generated for choice in choices)
    return {
        "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(r.cached_tokens for r in prompts.values())},
    }  # fmt: skip
