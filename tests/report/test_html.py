"""The page's bytes: what stands in it, and that nothing in its data can run."""

import json

from bench.report.html import ASSETS, VENDORED, as_script, is_page, render, vendored_sums


def test_no_element_can_open_or_close_in_the_data():
    data = {"a": "</script><!-- <script>", "b": "\u2028\u2029&amp;", "c": [1.5, None, True]}
    text = as_script(data)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == data


def test_the_page_allows_nothing_from_elsewhere_and_is_known_again():
    made = render("<b>title</b>", {"a": 1})
    assert b"default-src 'none'" in made
    assert b"<b>title</b>" not in made and b"&lt;b&gt;title&lt;/b&gt;" in made
    assert is_page(made) and not is_page(b"<!doctype html><p>another's</p>")
    assert render("<b>title</b>", {"a": 1}) == made


def test_the_libraries_are_those_that_are_listed_with_their_licences():
    listed = json.loads((ASSETS / "vendor" / "vendor.json").read_text())
    assert {name: entry["sha256"] for name, entry in listed.items()} == vendored_sums()
    assert set(listed) == set(VENDORED)
    made = render("", {})
    for name, entry in listed.items():
        licence = (ASSETS / "vendor" / f"{name.partition('.')[0]}.LICENSE").read_text()
        assert "Permission to use, copy, modify" in licence and entry["licence"] == "ISC"
        assert entry["version"].encode() in made and licence.strip().encode() in made
