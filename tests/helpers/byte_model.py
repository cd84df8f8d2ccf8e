"""A small model over bytes, and a stand-in for its generation."""

import torch

SPECIAL = ("<pad>", "<bos>", "<end>", "<stop>")
PAD, BOS, END, STOP = range(4)


class Scripted:
    """Stands in for `model.generate`: answers each prompt by `reply(prompt)`, token ids or text."""

    def __init__(self, tokenizer, reply):
        self.tokenizer, self.reply = tokenizer, reply
        self.prompts: list[str] = []
        self.prompt_ids: list[list[int]] = []
        self.calls: list[dict] = []

    def __call__(self, input_ids, attention_mask, max_new_tokens, **settings):
        self.calls.append({"max_new_tokens": max_new_tokens, **settings})
        replies = []
        for ids, is_prompt in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            n_pad = is_prompt.count(0)
            assert is_prompt == [0] * n_pad + [1] * (len(ids) - n_pad)
            self.prompt_ids.append(ids[n_pad:])
            self.prompts.append(self.tokenizer.decode(ids[n_pad:]))
            reply = self.reply(self.prompts[-1])
            if isinstance(reply, str):
                reply = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
            replies.append(reply[:max_new_tokens])
        width = max(map(len, replies))
        padded = [reply + [PAD] * (width - len(reply)) for reply in replies]
        return torch.cat([input_ids, torch.tensor(padded)], 1)
