"""Settings that are frozen, refuse unknown keys, and say in one line what they do not accept."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.core.errors import ConfigError, unknown_name

Parameter = bool | int | float | str


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    if not TYPE_CHECKING:  # type checkers read the fields

        def __init__(self, **data: Any) -> None:
            """Raises ConfigError, as `parse` does."""
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise ConfigError(one_line(error)) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **arguments: Any) -> None:
        """help() lists the fields with their definitions and defaults."""
        lines = [f"{cls.__doc__ or cls.__name__}", ""]
        for name, field in cls.model_fields.items():
            said = " ".join((field.description or "").split())
            lines.append(f"    {name} = {field.default!r}: {said}")
        cls.__doc__ = "\n".join(lines)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_name(cls.__name__, str(key), cls.model_fields)
        return data

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Settings from plain values. ConfigError names the field, the value, what is accepted."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(one_line(error)) from None


def one_line(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "literal_error":
            near = get_close_matches(str(item["input"]), re.findall(r"'([^']+)'", message), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        if not item["loc"]:
            parts.append(message)
            continue
        field = ".".join(str(part) for part in item["loc"])
        parts.append(
            f"{field}: {_shown(item['input'])} is not accepted: {message[0].lower()}{message[1:]}"
        )
    return "; ".join(parts)


def _shown(value: Any) -> str:
    """A value in an error; a long one by its beginning."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 300 else f"{text[:200]}… ({len(text):,} characters)"


def _named_values(given: Any) -> Any:
    """{"a": "1", "b": "2"} from "a=1,b=2" or ["a=1", "b=2"], as flags give them."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple):
        return given
    values = {}
    for part in (part for text in texts for part in str(text).split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"{part!r} is not name=value")
        values[name.strip()] = value.strip()
    return values


def _several(given: Any) -> Any:
    """("a", "b") from "a,b", ["a,b"] or ["a", "b"], as flags give them."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return given
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


Named = BeforeValidator(_named_values)
Several = BeforeValidator(_several)
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
