"""Data and assets -> one HTML file: no request leaves it, and nothing in its data can run."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

ASSETS = Path(__file__).parent / "assets"
VENDORED = ("d3.min.js", "plot.umd.min.js")
SCRIPTS = (
    "page.js", "charts.js", "claims.js", "leaderboard.js", "curves.js", "overlap.js", "tokens.js",
    "reported.js", "diagnostic.js", "run.js", "main.js",
)  # fmt: skip
GENERATOR = "opd-bench report"
"""What a page says of itself: a file that does not is another's, and is not replaced."""


def render(title: str, data: dict[str, Any]) -> bytes:
    """The page. `data` holds JSON values; everything in it is text to the page."""
    template = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=select_autoescape(("j2",), default=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    ).get_template("report.html.j2")  # fmt: skip
    return template.render(
        title=title,
        generator=GENERATOR,
        style=_asset("report.css"),
        vendored=[
            f"/*\n{_asset(f'vendor/{licence_of(name)}')}*/\n{_asset(f'vendor/{name}')}"
            for name in VENDORED
        ],
        script="\n".join(_asset(name) for name in SCRIPTS),
        data=as_script(data),
    ).encode()


def as_script(data: Any) -> str:
    """JSON that can stand inside a script element: no tag can open or close in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def is_page(content: bytes) -> bool:
    """Was this file written by `render`?"""
    return f'content="{GENERATOR}"'.encode() in content[:2000]


@cache
def _asset(name: str) -> str:
    text = (ASSETS / name).read_text(encoding="utf-8")
    if "</script" in text.lower():
        raise ValueError(f"{name} would end the element that it stands in")
    return text


def licence_of(name: str) -> str:
    """The file beside a library that holds its licence."""
    return f"{name.partition('.')[0]}.LICENSE"


def vendored_sums() -> dict[str, str]:
    """File of assets/vendor -> SHA-256 of its bytes."""
    return {
        name: hashlib.sha256((ASSETS / "vendor" / name).read_bytes()).hexdigest()
        for name in VENDORED
    }
