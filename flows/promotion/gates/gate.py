"""One condition of a promotion, and the outcome of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imageset.utils.text import escape_markdown


@dataclass(frozen=True)
class Gate:
    """One condition of a promotion, and its outcome.

    Attributes:
        name: short and fixed, such as "better".
        passes: whether the condition holds.
        message: the outcome in words.
        numbers: the outcome in numbers, by name; they become tags of the model version.
        note: the part of the message that belongs to the reason of a promotion even if the condition holds.
    """

    name: str
    passes: bool
    message: str
    numbers: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class GateResult:
    """The decision about a candidate: whether it should serve, the reason, and all gates."""

    passes: bool
    reason: str
    gates: tuple[Gate, ...] = ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of all gates."""
        return {name: value for gate in self.gates for name, value in gate.numbers.items()}

    def to_markdown(self) -> str:
        """Format the gates as a Markdown table."""
        rows = [
            f"| {gate.name} | {'holds' if gate.passes else 'fails'} | {escape_markdown(gate.message)} |"
            for gate in self.gates
        ]
        return "\n".join(["| condition | | |", "| --- | --- | --- |", *rows]) if rows else ""
