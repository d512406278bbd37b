"""A frame that got no label, and why."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """One frame that got no label.

    Attributes:
        origin: file and frame, or recipe and frame.
        stage: ``read``, ``input``, ``scf``, ``check`` or ``worker``.
        reason: one sentence for people.
        id: identity of the label it would have had; empty where no geometry could be read.
    """

    origin: str
    stage: str
    reason: str
    id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)
