"""Which terms of position-sensitive attention a layer has, for the papers' ablations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionTerms:
    """The five terms of position-sensitive attention (Axial-DeepLab, eq. 3), each on or off.

    A term that is off costs no parameter: neither its table, nor its batch norm's channels, nor
    a projection that nothing else reads (with q·r alone there is no key).

    Args:
        query_key: q·k.
        query_position: q·r^q.
        key_position: k·r^k.
        value_content: the weighted sum of v.
        value_position: the weighted sum of r^v.

    Raises:
        ValueError: no logit term, or nothing to retrieve.
    """

    query_key: bool = True
    query_position: bool = True
    key_position: bool = True
    value_content: bool = True
    value_position: bool = True

    def __post_init__(self) -> None:
        if not any(self.logits):
            raise ValueError(
                "the attention has no logit term: QUERY_KEY, QUERY_POSITION and KEY_POSITION are "
                "all off, or the position encoding leaves none of them; turn one on."
            )
        if not any(self.retrieved):
            raise ValueError(
                "the attention retrieves nothing: VALUE_CONTENT and VALUE_POSITION are both off, "
                "or this kind of attention has no VALUE_POSITION; turn one on."
            )

    @property
    def logits(self) -> tuple[bool, bool, bool]:
        """Of q·k, q·r and k·r."""
        return self.query_key, self.query_position, self.key_position

    @property
    def retrieved(self) -> tuple[bool, bool]:
        """Of content and position."""
        return self.value_content, self.value_position

    @property
    def query(self) -> bool:
        """Whether any term reads the query."""
        return self.query_key or self.query_position

    @property
    def key(self) -> bool:
        """Whether any term reads the key."""
        return self.query_key or self.key_position


ALL_TERMS = AttentionTerms()
