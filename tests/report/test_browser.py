"""The page in a real browser: sorted, filtered, walked by keyboard, read by axe-core."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Opened, chromium, needs_chromium

from bench.report.build import Sources, page
from bench.report.tokens import read_bank

pytestmark = [needs_chromium, pytest.mark.xdist_group("browser")]
ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "report.html"
HOSTILE = (
    '<script>document.title="taken"</script><img src=x onerror="document.title=1">\u202egnp.exe'
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser):
    found = Opened(browser, PUBLISHED)
    yield found
    found.close()


def texts(found, selector):
    return [element.inner_text() for element in found.page.query_selector_all(selector)]


def test_the_page_opens_with_every_section_and_no_word_of_complaint(opened):
    ids = [s.get_attribute("id") for s in opened.page.query_selector_all("main > section")]
    assert ids == ["claims", "leaderboard", "curves", "overlap", "tokens", "reported", "diagnostic"]
    links = [a.get_attribute("href") for a in opened.page.query_selector_all("nav a")]
    assert links == [f"#{name}" for name in ids]
    assert "teachable tokens do as well as all" in texts(opened, "#claims tbody th")
    paint = opened.page.evaluate("performance.getEntriesByName('first-contentful-paint').length")
    assert paint == 1


def test_the_leaderboard_sorts_filters_and_opens_a_row(opened):
    def column(place):
        return texts(opened, f"#leaderboard tbody tr:not(.detail) > :nth-child({place})")

    def number(text):
        return float(re.match(r"[−+]?[\d.]+", text).group().replace("−", "-"))

    accuracies = [number(text) for text in column(5)]
    assert accuracies == sorted(accuracies, reverse=True) and len(accuracies) > 20
    opened.page.click("#leaderboard thead th:nth-child(5) button")
    assert [number(text) for text in column(5)] == sorted(accuracies)
    header = opened.page.query_selector("#leaderboard thead th:nth-child(5)")
    assert header.get_attribute("aria-sort") == "ascending"
    opened.page.fill("#search", "teachability_raw")
    assert set(column(1)) == {"teachability_raw"}
    opened.page.click("#leaderboard tbody th button")
    detail = opened.page.inner_text("#leaderboard tr.detail")
    assert "formula" in detail and "arXiv" in detail and "keep0.05-s" in detail
    opened.page.fill("#search", "")
    opened.page.select_option("#leaderboard label:has-text('pair') select", "tiny-qwen3")
    assert set(column(2)) == {"tiny-qwen3"}


def test_a_series_goes_and_comes_by_its_button_and_values_are_walked_by_keyboard(opened):
    figure = "#curves figure >> nth=0"
    count = "document.querySelectorAll('#curves figure')[0].querySelectorAll('circle').length"
    before = opened.page.evaluate(count)
    opened.page.click("#curves .legend button >> nth=1")
    assert opened.page.evaluate(count) < before
    opened.page.click("#curves .legend button >> nth=1")
    assert opened.page.evaluate(count) == before
    opened.page.focus(f"{figure} >> circle[tabindex='0']")
    first = opened.page.inner_text("#tip")
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.inner_text("#tip") != first and "%" in first
    opened.page.keyboard.press("Escape")
    assert opened.page.is_hidden("#tip")


def marked(found):
    return {
        name: len(found.page.query_selector_all(f"#stage .token.{name}"))
        for name in ("a", "b", "both")
    }


def test_the_slider_moves_what_a_rule_keeps_and_a_second_rule_is_set_beside_it(opened):
    opened.page.select_option("#tokens label:has-text('rule B') select", "")
    few = marked(opened)
    assert few["b"] == few["both"] == 0
    opened.page.fill("#keep", "100")
    every = len(opened.page.query_selector_all("#stage .token"))
    assert marked(opened) == {"a": every, "b": 0, "both": 0} and every > few["a"]
    opened.page.fill("#keep", "30")
    opened.page.select_option("#tokens label:has-text('rule B') select", "forward_kl")
    found = marked(opened)
    assert sum(found.values()) < every and found["both"] + found["b"] > 0
    opened.page.select_option("#tokens label:has-text('responses') select", "false")
    assert texts(opened, "#stage .box .chip") == ["wrong"]
    opened.page.select_option("#tokens label:has-text('only with') select", "b")
    assert marked(opened)["b"] > 0


def test_tokens_are_walked_by_keyboard_and_a_link_leads_back(browser, opened):
    opened.page.focus("#stage .token[tabindex='0']")
    for _ in range(3):
        opened.page.keyboard.press("ArrowRight")
    assert "4 of" in opened.page.inner_text("#card h3")
    response = opened.page.inner_text("#stage .controls span")
    opened.page.keyboard.press("n")
    assert opened.page.inner_text("#stage .controls span") != response
    opened.page.keyboard.press("ArrowRight")
    opened.page.fill("#keep", "37")
    link = opened.page.get_attribute("#link", "href")
    title = opened.page.inner_text("#card h3")
    other = Opened(browser, PUBLISHED, fragment=link)
    assert other.page.inner_text("#card h3") == title
    assert other.page.input_value("#keep") == "37"
    other.close()


def test_a_cell_of_the_matrix_opens_both_rules(opened):
    cell = opened.page.query_selector("#overlap rect[aria-label^='entropy and forward_kl']")
    cell.focus()
    opened.page.keyboard.press("Enter")
    assert opened.page.input_value("#tokens label:has-text('rule A') select") == "entropy"
    assert opened.page.input_value("#tokens label:has-text('rule B') select") == "forward_kl"
    assert marked(opened)["a"] > 0


@pytest.mark.parametrize("width, theme", [(360, "dark"), (1920, "light")])
def test_no_serious_fault_at_either_width_and_theme(browser, width, theme):
    found = Opened(browser, PUBLISHED, width=width, theme=theme)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    for more in found.page.query_selector_all("figure details summary")[:3]:
        more.click()
    assert found.faults() == []
    found.close()


def test_hostile_text_is_text(browser, tmp_path):
    """In prompts, answers, tokens, rule names and answers of a run."""
    bank = read_bank(ROOT / "results" / "tokens" / "tiny-qwen3.parquet")
    facts = {
        **bank.facts,
        "prompts": {name: {"text": HOSTILE, "answer": HOSTILE} for name in bank.facts["prompts"]},
        "texts": dict.fromkeys(bank.facts["texts"], HOSTILE),
    }
    said = [HOSTILE, HOSTILE, 1.0]
    run = {
        "id": HOSTILE, "changes": {"pair": HOSTILE}, "curve": [], "tokens": dict.fromkeys(
            ("sampled", "scored", "trained"), 1), "realised_keep": 1.0, "seconds": {}, "memory": 1,
        "scores": {"trained": {"tiny_math": {"mean": 0.5, "n": 1, "ci95": [0.1, 0.9]}}},
        "change": {"tiny_math": {"mean": 0.1, "ci95": [0.0, 0.2]}}, "ended": "", "steps": {
            "loss": [1.0, 2.0]},
        "provenance": {"git": HOSTILE, "dirty": False, "versions": {"torch": "2"}, "device": "cpu"},
        "answers": [{"task": HOSTILE, "n": 1, "k": 1, "items": [
            {"id": HOSTILE, "question": HOSTILE, "gold": HOSTILE, "trained": said}]}],
    }  # fmt: skip
    file = tmp_path / "hostile.html"
    made = page(Sources(title=HOSTILE, banks=[replace(bank, facts=facts)], runs=[run]))
    file.write_bytes(made)
    found = Opened(browser, file)
    found.page.select_option("section label:has-text('items') select", "")
    body = found.page.inner_text("body")
    assert body.count('<script>document.title="taken"</script>') >= 6
    assert "⟨U+202E⟩gnp.exe" in body
    assert found.page.title() == HOSTILE
    assert found.page.query_selector("main img") is None
    assert found.page.query_selector("main script") is None
    found.close()
