"""The protocol: task files are named for their task."""

import yaml

from bench.tasks.protocol import TASK_FOLDER, task_names


def test_task_files_are_named_for_their_task():
    class Loader(yaml.SafeLoader):
        """Reads `!function` as a plain word."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    for name in task_names():
        with open(TASK_FOLDER / f"{name}.yaml") as file:
            assert yaml.load(file, Loader)["task"] == name  # a SafeLoader
    maths = ["aime24", "aime25", "amc23", "gsm8k", "math500", "minerva", "olympiadbench"]
    assert task_names() == [*maths, "tiny_math", "tiny_math_tune"]
