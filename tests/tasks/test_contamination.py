"""Contamination: thirteen words in a row that are no stock phrase."""

from bench.tasks.contamination import Overlap, overlaps, words


def test_contamination_is_thirteen_words_in_a_row():
    twenty = [f"w{index}" for index in range(20)]
    item = " ".join(twenty)
    run = " ".join(twenty[3:16])
    assert words(r"The $\frac{AB}{2}$-th x_1!") == ("the", "frac", "ab", "2", "th", "x", "1")
    texts = [
        f"before {run} after",
        " ".join(twenty[3:15]) + " and " + " ".join(twenty[16:]),  # twelve and four
        run.upper().replace(" ", ", "),
        "something else",
        "",
    ]
    found = overlaps(texts, {"a": ["nothing", item], "b": []})
    assert found == {
        "a": Overlap(frozenset({0, 2}), frozenset({0, 2}), frozenset({1})),
        "b": Overlap(frozenset(), frozenset(), frozenset()),
    }


def test_a_stock_phrase_is_counted_and_contaminates_nothing():
    phrase = " ".join(f"w{index}" for index in range(13))
    texts = [f"{number} {phrase}" for number in range(11)]
    own = " ".join(f"u{index}" for index in range(13))
    found = overlaps([*texts, own], {"a": [phrase, own]})["a"]
    assert found == Overlap(frozenset(range(12)), frozenset({11}), frozenset({1}))
    found = overlaps([*texts[1:], own], {"a": [phrase, own]})["a"]
    assert found.contaminated == frozenset(range(11))


def test_a_short_item_is_shared_only_as_a_whole():
    found = overlaps(["Compute sin 60.", "Compute sin 60 and cos 60"], {"a": ["compute $sin 60$"]})
    assert found["a"].sharing == frozenset({0})
