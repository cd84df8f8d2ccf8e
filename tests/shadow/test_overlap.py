"""bench overlap: what is printed and drawn follows from the lines that were logged."""

import json

import numpy as np
import pytest
from command import call, run_flags
from small_pair import pair_folder

from bench.core.errors import ConfigError
from bench.shadow.overlap import read_shadow
from bench.shadow.overlap_figures import draw_overlap
from bench.shadow.token_classes import TOKEN_CLASSES

RULES = ["own", "twin", "other", "far"]


def line(step: int, jaccard: list, rules=RULES, **more) -> dict:
    """A line of four rules that keep 2 of 20 tokens each, with statistics that are easy to sum."""
    count = len(rules)
    halves = [10, *[0] * 8, 10]
    classes = [20, *[0] * (len(TOKEN_CLASSES) - 1)]
    at_end, at_start = [*[0] * 9, 2], [2, *[0] * 9]
    group = {"all": halves, "kept": [at_end if n == "far" else at_start for n in rules]}
    return {
        "step": step, "tokens": 20, "keep": 0.1, "gradient_of": "reverse_kl", "rules": list(rules),
        "skipped": {"full": "keeps every token"}, "kept": [2] * count, "tied": [1] * count,
        "jaccard": jaccard, "spearman": jaccard, "position": group, "entropy": group,
        "class": {"all": classes, "kept": [[2, *classes[1:]]] * count},
        "signals": {"names": ["a"], "all": [step], "kept": [[2.0 * step]] * count},
        "gradient_share": [0.1 * step] * count, **more,
    }  # fmt: skip


def log(*lines: dict) -> str:
    return "".join(json.dumps(each) + "\n" for each in lines)


ONE = [
    0.9,
    0.4,
    0.0,
    0.3,
    0.1,
    0.0,
]  # own-twin, own-other, own-far, twin-other, twin-far, other-far
TWO = [0.7, 0.2, 0.0, 0.3, None, 0.0]


def test_matrices_are_means_over_steps_whatever_the_order_of_the_rules():
    turned = [RULES[i] for i in (0, 2, 1, 3)]
    second = [0.2, 0.7, 0.0, 0.3, 0.0, None]
    found = read_shadow(log(line(1, ONE), line(2, second, turned)), "run")
    assert found.jaccard_RR[0].tolist() == pytest.approx([1.0, 0.8, 0.3, 0.0])
    assert found.jaccard_RR[1, 3] == 0.1  # one step has none
    assert np.array_equal(found.jaccard_RR, found.jaccard_RR.T)
    assert found.jaccard_sd_RR[0, 1] == pytest.approx(np.std([0.9, 0.7], ddof=1))
    assert found.gradient_R.tolist() == pytest.approx([0.15] * 4)
    assert found.tied_R.tolist() == [0.5] * 4
    assert found.signal_all_S.tolist() == [1.5] and found.signal_kept_RS[0].tolist() == [3.0]
    assert found.tokens == 40 and found.steps == (1, 2)
    assert found.by_chance == pytest.approx(0.1 / 1.9)


def test_lift_is_the_share_of_kept_over_the_share_of_all():
    lift = read_shadow(log(line(1, ONE)), "run").profiles["position"].lift_RG
    assert lift[0, 0] == 2 and lift[0, 9] == 0 and lift[3, 9] == 2
    assert np.isnan(lift[0, 1])  # no token of any kind there


def test_like_rules_stand_side_by_side():
    found = read_shadow(log(line(1, ONE)), "run")
    order = [found.rules[place] for place in found.order()]
    assert sorted(order) == sorted(RULES)
    assert abs(order.index("own") - order.index("twin")) == 1
    assert order.index("far") in (0, 3)
    assert found.nearest(0, 2) == [("twin", 0.9), ("other", 0.4)]


def test_a_rule_that_some_steps_lack_is_named_and_left_out():
    short = line(2, [0.9, 0.4, 0.3], RULES[:3])
    found = read_shadow(log(line(1, ONE), short), "run")
    assert found.rules == ("own", "twin", "other")
    assert found.skipped == {"full": "keeps every token", "far": "is missing in some steps"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no line yet"),
        (log(line(1, ONE)) + '{"step": 2, "ru', "line 2 is broken"),
        (log(line(1, ONE), line(2, ONE, keep=0.2)), "differ in keep"),
    ],
)
def test_a_log_that_cannot_be_read_says_why(text, message):
    with pytest.raises(ConfigError, match=message):
        read_shadow(text, "run")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_figures_are_the_same_bytes_every_time(count):
    pairs = [v for (a, b), v in zip(
        [(a, b) for a in range(4) for b in range(a + 1, 4)], TWO, strict=True
    ) if b < count]  # fmt: skip
    found = read_shadow(log(line(1, pairs, RULES[:count])), "run")
    drawn, again = draw_overlap(found), draw_overlap(found)
    assert set(drawn) == {"overlap.svg", "overlap.png", "profiles.svg", "profiles.png"}
    for name, content in drawn.items():
        assert content == again[name] and len(content) > 2000


def test_a_shadowed_run_is_printed_and_drawn(capsys, tmp_path):
    flags = run_flags(tmp_path, selector="tip", steps=2)
    code, out, err = call(
        capsys, "run", *flags, "--shadow", "entropy", "--shadow", "random", "--json"
    )
    assert code == 0, err
    run_id = json.loads(out)["run_id"]
    runs = tmp_path / "runs"
    code, out, err = call(capsys, "overlap", run_id, "--runs-dir", runs, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["rules"] == ["tip", "entropy", "random"]
    assert document["steps"] == [1, 2]
    assert document["jaccard"][0][0] == 1
    assert (runs / run_id / "overlap" / "overlap.svg").is_file()
    code, out, _ = call(capsys, "overlap", runs / run_id, "--out", tmp_path / "figures")
    assert code == 0
    assert "entropy" in out and "by chance" in out and str(tmp_path / "figures") in out
    assert (tmp_path / "figures" / "profiles.png").is_file()
    mine = tmp_path / "mine" / "profiles.svg"
    mine.parent.mkdir()
    mine.write_text("mine")
    code, _, err = call(capsys, "overlap", runs / run_id, "--out", mine.parent)
    assert code == 2 and "profiles.svg" in err and list(mine.parent.iterdir()) == [mine]
    assert mine.read_text() == "mine"


def test_a_run_without_a_shadow_log_is_told_how_to_get_one(capsys, tmp_path):
    (tmp_path / "runs" / "plain").mkdir(parents=True)
    code, out, err = call(capsys, "overlap", "plain", "--runs-dir", tmp_path / "runs")
    assert (code, out) == (2, "") and "--shadow all" in err
    code, _, err = call(capsys, "overlap", "nowhere", "--runs-dir", pair_folder())
    assert code == 2 and "neither a run" in err
