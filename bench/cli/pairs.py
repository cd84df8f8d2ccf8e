"""`bench pairs`: the teacher-student pairs, and building embedded ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from bench.cli.console import AsJson, RunsDir, console, escape, facts, print_json

if TYPE_CHECKING:
    from bench.pairs.pair import Pair

pairs_app = App(
    name="pairs",
    help="""List the teacher-student pairs, or build an embedded one.

    Example: `bench pairs`
    """,
)


@pairs_app.default
def pairs(*, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the teacher-student pairs."""
    from bench.pairs.pair import get_pair, pair_names

    rows = [pair_page(get_pair(name)) for name in pair_names()]
    if as_json:
        print_json(rows)
    else:
        print_pairs(rows)


@pairs_app.command(name="show")
def pairs_show(name: str, *, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """Print a pair: models, revisions, chat, stop tokens, own settings, source.

    Example: `bench pairs show qwen3-1.7b-from-4b`
    """
    from bench.pairs.pair import get_pair

    page = pair_page(get_pair(name))
    if as_json:
        print_json(page)
    else:
        print_pair(page)


@pairs_app.command
def build(
    name: str,
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder of the new pair (default: pairs/NAME).")
    ] = None,
    style_share: Annotated[
        float | None, Parameter(help="Share of steps that the teacher words its own way.")
    ] = None,
    seed: Annotated[int, Parameter(help="Seed of weights and problems.")] = 0,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train an embedded pair from scratch; resumes. Use it with `bench run --pair FOLDER`.

    Example: `bench pairs build tiny-qwen3`
    """
    from bench.pairs.tiny.build import build_pair

    folder = build_pair(name, out or Path("pairs") / name, style_share=style_share, seed=seed)
    print_built(folder, as_json)


@pairs_app.command
def retune(
    name: str,
    *,
    style_share: Annotated[
        float, Parameter(help="Share of steps that the teacher words its own way.")
    ],
    out: Annotated[
        Path | None, Parameter(help="Folder of the new pair (default: pairs/NAME-styleSHARE).")
    ] = None,
    steps: Annotated[int, Parameter(help="Fine-tuning steps.")] = 200,
    seed: Annotated[int, Parameter(help="Seed of the problems.")] = 0,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Fine-tune the teacher of an embedded pair to word its steps otherwise; resumes.

    Example: `bench pairs retune tiny-qwen2.5 --style-share 0.4`
    """
    from bench.pairs.pair import get_pair
    from bench.pairs.tiny.build import retune_teacher

    origin = Path(get_pair(name).teacher).parent
    folder = out or Path("pairs") / f"{Path(name).name}-style{style_share:g}"
    retune_teacher(origin, folder, style_share, steps, seed)
    print_built(folder, as_json)


def pair_page(pair: "Pair") -> dict[str, Any]:
    """Everything `bench pairs` says of a pair."""
    return {
        "name": pair.name,
        "student": pair.student,
        "student_revision": pair.student_revision,
        "teacher": pair.teacher,
        "teacher_revision": pair.teacher_revision,
        "summary": pair.summary,
        "chat": pair.chat,
        "thinking": pair.thinking,
        "stop_ids": {side: list(ids) for side, ids in pair.stop_ids.items()},
        "settings": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in pair.settings.items()
        },
        "source": pair.source,
    }


def print_built(folder: Path, as_json: bool) -> None:
    if as_json:
        print_json({"pair": str(folder)})
    else:
        print(f"built {folder}; use it with: bench run --pair {folder}")


def print_pairs(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("name", "student", "teacher", "what it is", "for")
    for row in rows:
        table.add_row(
            escape(row["name"]), escape(_short(row["student"])), escape(_short(row["teacher"])),
            escape(row["summary"]), escape(row["source"]),
        )  # fmt: skip
    console().print(table)
    console().print("`bench pairs show NAME` prints revisions, stops and settings.")


def _short(place: str) -> str:
    """An embedded model by its folder's name alone."""
    return "embedded" if place.startswith("/") else place


def print_pair(page: Mapping[str, Any]) -> None:
    out = console()
    table = facts()
    for side in ("student", "teacher"):
        revision = page[f"{side}_revision"]
        table.add_row(side, escape(page[side]) + (f" at {revision}" if revision else ""))
    thinking = {True: "thinking on", False: "thinking off", None: "no thinking mode"}
    table.add_row("chat", f"{page['chat']}, {thinking[page['thinking']]}")
    stops = {side: ", ".join(map(str, ids)) for side, ids in page["stop_ids"].items()}
    told = [f"{side} {ids}" for side, ids in stops.items()] or ["as the models' files say"]
    table.add_row("stop tokens", "; ".join(told))
    table.add_row("what it is", escape(page["summary"]))
    table.add_row("for", escape(page["source"]) or "first runs and tests")
    out.print(f"[bold]{escape(page['name'])}[/bold]")
    out.print(table, highlight=False)
    flags = [f"bench run --pair {page['name']}"]
    for name, value in page["settings"].items():
        for one in value if isinstance(value, list) else [value]:
            flags.append(f"--{name.replace('_', '-')} {one}")
    out.print("\n" + " ".join(flags), highlight=False, soft_wrap=True)
