"""Files of prompts, and a tokenizer of one token a character."""

import json

from bench.core.config import Experiment
from bench.tasks.chat import PLAIN_TEXT
from bench.tasks.prompt_file import FilePrompts
from bench.tasks.prompt_sets import get_prompts


class Characters:
    """One token a character; no chat template."""

    chat_template = None
    name_or_path = "characters"

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [list(map(ord, text)) for text in texts]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prepare(path, chat=PLAIN_TEXT, tokenizer=None, **settings) -> FilePrompts:
    experiment = Experiment(prompts=path, **settings)
    return get_prompts(experiment).prepare(tokenizer or Characters(), chat)


def numbered(count):
    return [{"problem": f"What is {number} plus one?", "answer": number + 1}
            for number in range(count)]  # fmt: skip
