"""A small model over bytes, and a stand-in for its generation."""

import torch

from bench.core.decode import Sampled

SPECIAL = ("<pad>", "<bos>", "<end>", "<stop>")
PAD, BOS, END, STOP = range(4)


class Scripted:
    """Stands in for `decode`: answers each prompt by `reply(prompt)`, token ids or text."""

    def __init__(self, tokenizer, reply):
        self.tokenizer, self.reply = tokenizer, reply
        self.prompts: list[str] = []
        self.prompt_ids: list[list[int]] = []
        self.calls: list[dict] = []

    def __call__(self, model, prompt_tokens, max_new_tokens, choose, stop_ids, *, together):
        self.calls.append({"max_new_tokens": max_new_tokens, "stop_ids": stop_ids})
        return [Sampled(self.respond(ids, max_new_tokens)) for ids in prompt_tokens]

    def respond(self, prompt_ids, max_new_tokens):
        self.prompt_ids.append(prompt_ids)
        self.prompts.append(self.tokenizer.decode(prompt_ids))
        reply = self.reply(self.prompts[-1])
        if isinstance(reply, str):
            reply = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
        return torch.tensor(reply[:max_new_tokens], dtype=torch.int64)
