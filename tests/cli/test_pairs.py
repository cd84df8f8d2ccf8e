"""`bench pairs`: the list."""

import json

from command import call


def test_pairs_are_listed(capsys):
    code, out, _ = call(capsys, "pairs", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)][:2] == ["tiny-qwen3", "tiny-qwen2.5"]
