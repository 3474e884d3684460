"""Which terms of position-sensitive attention are present."""

from __future__ import annotations

from torch import Tensor


def check_terms(
    query_key: bool,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value: Tensor | None,
    value_table: Tensor | None,
) -> None:
    """Raises ValueError where there is nothing to weigh by, or nothing to retrieve."""
    if not query_key and query_table is None and key_table is None:
        raise ValueError(
            "attention needs at least one logit term: query_key=True, a query_table or a key_table."
        )
    if value is None and value_table is None:
        raise ValueError("attention retrieves nothing: give a value or a value_table.")
