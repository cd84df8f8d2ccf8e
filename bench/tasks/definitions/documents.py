"""Documents for lm-eval, held in memory."""

from typing import Any


class Documents(list[dict[str, Any]]):
    """Documents in memory, with the one attribute of a `datasets.Dataset` that lm-eval reads."""

    @property
    def features(self) -> dict[str, type[str]]:
        """Column names; lm-eval looks `doc_to_text` and `doc_to_target` up in them."""
        return dict.fromkeys(self[0], str)
