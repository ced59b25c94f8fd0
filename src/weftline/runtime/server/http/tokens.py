"""The model's tokenizer, one thread for all requests, and what clients ask of it.

Load generators that draw prompts of so many tokens, and harnesses without the tokenizer's files
(lm-eval's remote tokenizer), ask the server, in the words of vLLM's ``/tokenize``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from weftline.runtime.server.http.protocol import ToDetokenize, ToTokenize
from weftline.runtime.server.http.reading import Refused

__all__ = ["Tokens"]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Tokens:
    """Text to tokens and back, off the event loop."""

    tokenizer: Any
    vocabulary: int
    max_len: int
    """Tokens of a sequence."""
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    """Tokenizers are not for several threads at once, and long texts would hold up the loop."""

    async def off_loop(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the tokenizer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    def encode(self, prompt: str | list[int], *, special: bool = True) -> list[int]:
        """Tokens of a prompt, which may be tokens already. Raises Refused."""
        if isinstance(prompt, str):
            said = self.tokenizer(prompt, add_special_tokens=special, verbose=False)
            found: list[int] = said["input_ids"]
            return found
        self._known(prompt, "prompt")
        return prompt

    def template(self, messages: list[dict[str, str]], *, generation: bool = True) -> list[int]:
        """Tokens of a conversation, as the model's template writes it. Raises Refused."""
        from jinja2.exceptions import TemplateError

        if not getattr(self.tokenizer, "chat_template", None):
            raise Refused(400, "this model has no chat template: use /v1/completions")
        try:
            text = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=generation, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise Refused(400, f"the model's chat template refuses: {str(error)[:200]}",
                          param="messages") from None  # fmt: skip
        return self.encode(text, special=False)

    def tokenized(self, asked: ToTokenize) -> dict[str, Any]:
        """The answer of ``POST /tokenize``."""
        if asked.messages is not None:
            found = self.template(asked.plain_messages(), generation=asked.add_generation_prompt)
        else:
            special = True if asked.add_special_tokens is None else asked.add_special_tokens
            found = self.encode(asked.prompt or "", special=special)
        words = [self.tokenizer.decode([t]) for t in found] if asked.return_token_strs else None
        return {"count": len(found), "max_model_len": self.max_len, "tokens": found,
                "token_strs": words}  # fmt: skip

    def detokenized(self, asked: ToDetokenize) -> dict[str, Any]:
        """The answer of ``POST /detokenize``; special tokens stay."""
        self._known(asked.tokens, "tokens")
        return {"prompt": self.tokenizer.decode(asked.tokens) if asked.tokens else ""}

    def info(self) -> dict[str, Any]:
        """The answer of ``GET /tokenizer_info``."""
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        special = {name: getattr(self.tokenizer, name, None) for name in names}
        return {
            "tokenizer_class": type(self.tokenizer).__name__, **special,
            "chat_template": getattr(self.tokenizer, "chat_template", None),
            "vocab_size": self.vocabulary, "max_model_len": self.max_len,
        }  # fmt: skip

    def close(self) -> None:
        """End the thread; what waits for it is dropped."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _known(self, tokens: Sequence[int], name: str) -> None:
        if tokens and max(tokens) >= self.vocabulary:
            raise Refused(400, f"{name}: token {max(tokens)} is not of this model (0 to "
                          f"{self.vocabulary - 1})", param=name)  # fmt: skip
