"""Evaluation leaves model, generators and streams as they were, and asks nothing of the network."""

import logging
import random
import socket
import sys
import threading

import numpy as np
import pytest
import torch
from byte_model import END

from bench.tasks.evaluate import evaluate
from bench.tasks.protocol import Asking


def random_states():
    return (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())


@pytest.mark.parametrize("fails", [False, True])
def test_model_tokenizer_generators_and_streams_are_left_as_they_were(
    model, tokenizer, script, monkeypatch, fails
):
    def reply(prompt):
        assert not any(module.training for module in model.modules())
        random.random(), np.random.random(), torch.rand(1)
        if fails:
            raise KeyError("broken model")
        return "<end>"

    script(reply)
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    model.train()
    model.model.layers[1].eval()
    logger = logging.getLogger("lm_eval")
    monkeypatch.setattr(logger, "propagate", True)

    def observe():
        return (
            [module.training for module in model.modules()],
            model.generation_config,
            tokenizer.padding_side,
            tokenizer.pad_token_id,
            (sys.stdout, sys.stderr),
            (list(logger.handlers), logger.level, logger.propagate),
            random_states(),
        )

    before = observe()
    if fails:
        with pytest.raises(KeyError, match="broken model"):
            evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2)
    else:
        evaluate(model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2)
    assert observe() == before


def test_noise_goes_to_the_log_and_progress_to_the_terminal(
    model, tokenizer, script, tmp_path, capfd
):
    def reply(prompt):
        print("printed by a library")
        print("complained by a library", file=sys.stderr)
        logging.getLogger("transformers.generation").warning("warned by transformers")
        other = threading.Thread(target=print, args=["drawn by another thread"])
        other.start()
        other.join(timeout=200)
        return "<end>"

    script(reply)
    log_file = tmp_path / "lm_eval.log"
    log_file.write_text("earlier\n")
    evaluate(
        model,
        tokenizer,
        ["tiny_math"],
        stop_ids=[END],
        limit=3,
        batch_size=2,
        log_file=log_file,
        progress=lambda task, done, total: print(f"{task} {done}/{total}"),
    )
    shown, complained = capfd.readouterr()
    assert complained == ""
    drawn = ["drawn by another thread"]
    assert shown.splitlines() == [
        *("tiny_math 0/3", *drawn * 2, "tiny_math 2/3", *drawn, "tiny_math 3/3")
    ]
    log = log_file.read_text()
    assert log.startswith("earlier\n")
    for noise in ("printed", "complained", "warned by transformers", "Building contexts"):
        assert noise in log


def test_nothing_is_shown_without_a_log_file_and_nothing_is_asked_of_the_network(
    model, tokenizer, monkeypatch, capfd
):
    def refuse(*_):
        raise AssertionError("evaluation opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    evaluate(
        model, tokenizer, ["tiny_math"], stop_ids=[END], limit=2, asking=Asking(max_new_tokens=4)
    )
    assert capfd.readouterr() == ("", "")
