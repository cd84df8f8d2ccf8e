"""The registry: names, files and modules, and errors that say what to do."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rule_source import RULE

from bench import get_selector, selector, selector_names
from bench.core.errors import ConfigError
from bench.selection import registry as registry_module
from bench.selection.registry import SelectorError

ENTROPY = ("student_entropy_BT",)

pytestmark = pytest.mark.usefixtures("registry")


def test_the_22_first_selectors_are_found_and_sorted():
    names = selector_names()
    assert names == sorted(names) and len(names) == len(set(names)) and len(names) >= 22
    assert {"full", "random", "teachability", "teachability_released", "tip"} <= set(names)


def test_a_decorated_function_is_found_by_its_name_and_still_callable(signals):
    @selector("fresh", needs=ENTROPY, kind="weight", abstains=True, reads_sampled_token=True)
    def fresh(signals):
        """Keep nothing in particular.

        Source: this test.
        """
        return signals.student_entropy_BT * 2

    found = get_selector("fresh")
    assert "fresh" in selector_names() and found.rule is fresh
    assert (found.name, found.needs, found.kind) == ("fresh", ENTROPY, "weight")
    assert found.abstains and found.reads_sampled_token
    assert found.summary == "Keep nothing in particular." and found.source == "this test"
    assert torch.equal(found(signals), signals.student_entropy_BT * 2)
    assert torch.equal(fresh(signals), found(signals))


def test_a_name_is_taken_once():
    with pytest.raises(SelectorError, match="'entropy' is registered twice.*uncertainty"):

        @selector("entropy")
        def mine(signals):
            return signals.uniform_BT

    assert get_selector("entropy").rule.__module__ == "token_selectors.uncertainty"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("teachabilty", "teachability"),
        ("entrpy", "entropy"),
        ("forward-kl", "forward_kl"),
        ("Tip", "tip"),
    ],
)
def test_an_unknown_name_suggests_the_nearest_in_place_of_the_list(wrong, nearest):
    with pytest.raises(ConfigError) as caught:
        get_selector(wrong)
    message = str(caught.value)
    assert repr(wrong) in message and f"did you mean {nearest!r}" in message
    assert "known:" not in message and "\n" not in message


def test_a_name_that_is_near_none_gets_the_list():
    with pytest.raises(ConfigError) as caught:
        get_selector("zzzz")
    message = str(caught.value)
    assert all(name in message for name in selector_names()) and "\n" not in message


def test_a_need_that_is_no_signal_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="student_entropy_BT"):
        selector("mine", needs=("student_entropi_BT",))
    assert "mine" not in selector_names()


def test_a_rule_in_a_file_needs_no_registration(rule_file, signals):
    found = get_selector(f"{rule_file}:my_rule")
    assert found.name == "my_rule" and found.needs == ENTROPY
    assert torch.equal(found(signals), signals.student_entropy_BT**2)
    again = get_selector(f"{rule_file}:my_rule", power=3.0)  # the same file loads twice
    assert torch.equal(again(signals), signals.student_entropy_BT**3)


def test_a_relative_path_is_a_file_too(rule_file, monkeypatch, signals):
    monkeypatch.chdir(rule_file.parent)
    for name in ("my_rules.py:my_rule", "./my_rules.py:my_rule"):
        assert torch.equal(get_selector(name)(signals), signals.student_entropy_BT**2)


def test_an_edited_file_is_read_again_and_hashes_differently(rule_file, signals):
    before = get_selector(f"{rule_file}:my_rule").code_sha256()
    rule_file.write_text(rule_file.read_text().replace("**power", "*power"))
    edited = get_selector(f"{rule_file}:my_rule")
    assert edited.code_sha256() != before
    assert torch.equal(edited(signals), signals.student_entropy_BT * 2)


def test_a_rule_in_a_module_needs_no_registration(rule_file, monkeypatch, signals):
    monkeypatch.syspath_prepend(rule_file.parent)
    found = get_selector("my_rules:my_rule", power=1.0)
    assert torch.equal(found(signals), signals.student_entropy_BT)


def test_a_builtin_rule_is_also_reached_by_module():
    assert get_selector("token_selectors.hybrids:tip") == get_selector("tip")


def test_a_function_without_a_selector_line_is_explained(rule_file):
    with pytest.raises(SelectorError, match=r"helper has no @selector\(\.\.\.\) line"):
        get_selector(f"{rule_file}:helper")


def test_an_unknown_function_of_a_file_suggests_the_nearest(rule_file):
    with pytest.raises(ConfigError, match="'my_rul'.*did you mean 'my_rule'"):
        get_selector(f"{rule_file}:my_rul")


def test_a_file_that_is_not_there_or_does_not_load_is_named(tmp_path):
    with pytest.raises(SelectorError, match="nowhere.py.*does not exist"):
        get_selector(f"{tmp_path}/nowhere.py:rule")
    broken = tmp_path / "broken.py"
    broken.write_text("def rule(:\n")
    with pytest.raises(SelectorError, match=r"broken.py.*does not load.*SyntaxError"):
        get_selector(f"{broken}:rule")
    with pytest.raises(SelectorError, match="no_such_module"):
        get_selector("no_such_module:rule")


def test_a_rule_named_by_its_place_may_be_called_as_a_builtin_and_hides_none(tmp_path, signals):
    builtin = get_selector("entropy")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "same.py"
        path.write_text(RULE.format(name="entropy"))
        assert torch.equal(get_selector(f"{path}:my_rule")(signals), signals.student_entropy_BT**2)
    assert get_selector("entropy") == builtin and "my_rule" not in selector_names()


def test_two_rules_of_one_file_may_not_share_a_name(rule_file):
    rule_file.write_text(
        rule_file.read_text() + RULE.format(name="my_rule").replace("def my_", "def o")
    )
    with pytest.raises(SelectorError, match="'my_rule' is registered twice"):
        get_selector(f"{rule_file}:my_rule")


def test_entry_points_are_loaded_on_discovery(monkeypatch):
    loaded = []
    entry = SimpleNamespace(load=lambda: loaded.append(True))

    def entry_points(group):
        assert group == "opd_bench.selectors"
        return [entry]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    registry_module._discover.__wrapped__()
    assert loaded == [True]


def test_the_names_are_all_there_without_anything_having_been_asked_for():
    code = "from bench import selector_names; print(len(selector_names()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(selector_names()) >= 77


def test_an_error_of_bad_input_inside_a_file_is_said_as_it_is(tmp_path):
    file = tmp_path / "rules.py"
    file.write_text(
        "from bench import selector\n\n\n@selector('r', needs=('nosuch_BT',))\n"
        "def r(signals):\n    return signals.uniform_BT\n"
    )
    with pytest.raises(ConfigError, match=r"^selector 'r': needs: unknown name 'nosuch_BT'"):
        get_selector(f"{file}:r")
    file.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(SelectorError, match="does not load: SystemExit: 0"):
        get_selector(f"{file}:r")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "<b>", "a|b", "[a](b)", "\x1b[31m", "a" * 101])
def test_a_name_is_letters_digits_and_little_else(name):
    with pytest.raises(SelectorError, match="a name is letters, digits"):
        selector(name)


def test_an_entry_point_that_does_not_load_is_named(monkeypatch):
    def load():
        raise ImportError("no such module")

    entry = SimpleNamespace(value="their.rules", load=load)
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [entry])
    registry_module._discover.cache_clear()
    try:
        with pytest.raises(SelectorError, match="selectors of 'their.rules'.*no such module"):
            selector_names()
    finally:
        monkeypatch.undo()
        registry_module._discover.cache_clear()
        selector_names()


def test_a_file_without_a_rule_in_it_named_is_asked_for_one(rule_file, tmp_path):
    with pytest.raises(ConfigError, match=r"is a file; name the rule in it: '.*\.py:my_rule'"):
        get_selector(str(rule_file))
    empty = tmp_path / "empty.py"
    empty.write_text("from bench import selector\n\n\ndef helper(signals):\n    return 1\n")
    with pytest.raises(ConfigError, match="has no function under a @selector"):
        get_selector(str(empty))


@pytest.mark.parametrize(
    "body", ["signals.teacher_entropy_BT", "signals.teacher_entropy_BT - signals.reverse_kl_BT"]
)
def test_a_rule_that_reads_what_it_does_not_declare_is_told_its_needs(signals, tmp_path, body):
    file = tmp_path / "undeclared.py"
    text = RULE.format(name="mine").replace("signals.student_entropy_BT**power", body)
    file.write_text(text.replace("return -score_BT if flip else score_BT", "return score_BT"))
    with pytest.raises(SelectorError, match="reads teacher_entropy_BT.*does not declare") as caught:
        get_selector(f"{file}:my_rule")(signals)
    assert 'needs=("student_entropy_BT", "teacher_entropy_BT"' in str(caught.value)
