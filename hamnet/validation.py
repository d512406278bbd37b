"""Files and options written by people, checked by pydantic: all mistakes at once, with a cure."""

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from hamnet.errors import HamnetError
from hamnet.registry import did_you_mean

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """Base of everything that is read from a file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def validate(model: type[M], data: Mapping[str, Any], source: str) -> M:
    """Return ``data`` as a validated ``model``.

    Args:
        model: the pydantic model.
        data: nested tables, as TOML or JSON gives them.
        source: where the data came from, for the message (a file name).

    Raises:
        HamnetError: lists every wrong key and value, with what was probably meant.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, detail) for detail in error.errors(include_url=False)]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise HamnetError("\n  ".join([f"{source}: {count}", *lines])) from None


def key_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key of a model, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _sections(field.annotation):
            yield from key_names(section, f"{prefix}{name}.")


def _explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    """Return one line for one of pydantic's errors: key, what is wrong, what was meant."""
    location = detail["loc"]
    name = ".".join(map(str, location))
    if detail["type"] == "extra_forbidden":
        return f"{name}: unknown key{_known_key(model, location)}"
    if detail["type"] == "missing":
        return f"{name}: this key is required"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    choices = _quoted(str(detail.get("ctx", {}).get("expected", "")))
    given = detail["input"]
    close = difflib.get_close_matches(str(given), choices, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{name}: {message}, got {given!r}{hint}"


def _known_key(model: type[BaseModel], location: Sequence[str | int]) -> str:
    """Return the suggestion for an unknown key: near it in its section, or in another section."""
    *path, key = map(str, location)
    elsewhere = [n for n in key_names(model) if "." in n and n.rsplit(".", 1)[1] == key]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}'?"
    for part in path:
        sections = _sections(model.model_fields[part].annotation) if _has(model, part) else []
        if sections:
            model = sections[0]
    return did_you_mean(key, model.model_fields)


def _has(model: type[BaseModel], key: str) -> bool:
    return key in model.model_fields


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the models inside an annotation: itself, or members of ``X | None``, ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in typing.get_args(annotation) for m in _sections(part)]


def _quoted(text: str) -> list[str]:
    """Return the words between single quotes in pydantic's list of allowed values."""
    return text.split("'")[1::2]
