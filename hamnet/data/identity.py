"""Which records: the name of a set of them, by which a model knows what it was trained on."""

import hashlib
from collections.abc import Iterable


def hash_ids(ids: Iterable[str]) -> str:
    """Return the hash of the ids of records in their order, 16 hex digits."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
