"""How a problem becomes what a model is fed: the one place where a chat template is applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.errors import ConfigError


@dataclass(frozen=True)
class Chat:
    """Template and thinking mode, the same in training and in evaluation."""

    template: bool = False
    """The tokenizer's own template around one user message; else the message and a newline."""
    thinking: bool | None = None
    """Passed to the template as `enable_thinking`; None passes nothing."""

    def text(self, tokenizer: Any, message: str) -> str:
        """What is tokenized, without further special tokens.

        Raises ConfigError where the tokenizer has no template, or the template fails.
        """
        if not self.template:
            return message + "\n"
        if not tokenizer.chat_template:
            raise ConfigError(
                f"chat: tokenizer {tokenizer.name_or_path!r} has no chat template; use --chat plain"
            )
        mode: Mapping[str, bool] = (
            {} if self.thinking is None else {"enable_thinking": self.thinking}
        )
        try:
            return tokenizer.apply_chat_template(
                [{"role": "user", "content": message}],
                tokenize=False,
                add_generation_prompt=True,
                **mode,
            )
        except Exception as error:  # a template is a program: it raises anything
            raise ConfigError(
                f"chat: the template of {tokenizer.name_or_path!r} fails: {error}"
            ) from error

    def heeds_thinking(self, tokenizer: Any) -> bool:
        """Does the template look at `enable_thinking`?"""
        on, off = (Chat(True, mode).text(tokenizer, "1") for mode in (True, False))
        return on != off


PLAIN_TEXT = Chat()


def message_of(question: str, instruction: str) -> str:
    """The user's message: the problem, then what is asked of it."""
    return f"{question}\n{instruction}" if instruction else question
