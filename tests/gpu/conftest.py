"""Checks of a CUDA device. Each is skipped where there is none; what they measure is kept.

`make gpu` names a file in `OPD_BENCH_GPU_CHECKS`: a line of JSON for each check, whatever came of
it, with its outcome, its seconds and what it measured.
"""

import json
import os

import pytest
import torch

KEPT = pytest.StashKey[dict]()


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is here"))


@pytest.fixture
def measured(request):
    """name -> number, for the page."""
    request.node.stash[KEPT] = {}
    return request.node.stash[KEPT]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    file = os.environ.get("OPD_BENCH_GPU_CHECKS")
    if file and call.when == "call":
        line = {
            "check": item.name, "outcome": report.outcome, "seconds": round(call.duration, 2),
            "measured": item.stash.get(KEPT, {}),
        }  # fmt: skip
        with open(file, "a") as lines:
            lines.write(json.dumps(line) + "\n")
    return report
