"""Typed sections of params.yaml, and messages of one line for whatever is wrong in them.

Each room that reads a section declares it in its own `params.py` as a subclass of `ParamsModel`: types, ranges,
defaults and descriptions stand there and nowhere else. `params.schema.json` is generated from the same classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from imageset.distribution import DISTRIBUTION, get_version
from imageset.exceptions import UserError
from imageset.utils.text import suggest_name, suggest_number

UNSEEN_BY_DVC = frozenset({"size", "nfiles"})  # dvc 3.67: dvc.stage.cache._get_cache_hash ignores these keys
TYPE_NAMES: dict[type, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list",
    dict: "a section", NoneType: "null",
}  # fmt: skip
Model = TypeVar("Model", bound="ParamsModel")


class ParamsModel(BaseModel):
    """A section of params.yaml.

    Nothing is converted, unknown keys are errors, and NaN and infinity are no numbers.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def keep_whole_numbers(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Return a checked value; a whole number stays one where a float is expected, as it is in the file."""
        checked = validate(value)
        return value if isinstance(checked, float) else checked

    def to_dict(self) -> dict[str, Any]:
        """Return the section as nested dictionaries, with the defaults of keys that the file leaves out."""
        return self.model_dump(warnings=False)  # a whole number in a float field is meant


@dataclass(frozen=True)
class OneOf:
    """Annotation of a field: the values that are allowed, from a table that is kept elsewhere."""

    values: tuple[str | int | None, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Return the schema that pydantic checks; it calls this method by its name."""
        return core_schema.no_info_before_validator_function(
            self.check_type, core_schema.literal_schema(list(self.values))
        )

    def check_type(self, value: Any) -> Any:
        """Return the value; ValueError if no choice is of its type: True and 1.0 would equal 1."""
        if type(value) not in map(type, self.values):
            raise ValueError("another type")
        return value


@dataclass(frozen=True)
class RangeMessage:
    """Annotation of a field: what follows the key in the message for a value that is out of range.

    Attributes:
        text: `{value}` stands for the value.
    """

    text: str


class VersionParams(ParamsModel):
    """The section `convoy`: the version of Convoy that the stages depend on."""

    version: str = Field(
        description="Version of convoy-vision; `convoy upgrade` writes the one that is installed."
    )


def read_convoy_version(path: str | Path) -> str | None:
    """Return `convoy.version` of a params.yaml; None in a project whose stages depend on Convoy's code itself.

    Raises:
        UserError: the section is wrong.
    """
    if not isinstance(_load_document(Path(path)).get("convoy"), dict):
        return None
    return load_params(path, "convoy", VersionParams).version


def check_convoy_version(path: str | Path) -> None:
    """Raise UserError if a project's stages depend on another version of Convoy than the one that is running.

    DVC would record that the stage ran with the version in params.yaml.
    """
    version = read_convoy_version(path)
    if version is not None and version != get_version():
        raise UserError(
            f"{path}: the project is of Convoy {version}, and {get_version()} is installed: `convoy upgrade` says "
            f"what runs again and takes it over, or install the other: pip install '{DISTRIBUTION}=={version}'"
        )


def load_params(path: str | Path, section: str, model: type[Model]) -> Model:
    """Return a section of a params.yaml.

    Raises:
        UserError: there is no such file or section, it is not YAML, a key is unknown (the nearest known one is
            named) or missing, or a value has another type or is out of its range.
    """
    return check_params(load_section(path, section), model, f"{path}: {section}")


def has_section(path: str | Path, section: str) -> bool:
    """Return whether a params.yaml has a section; the errors are those of `load_section`."""
    return section in _load_document(Path(path))


def load_section(path: str | Path, stage: str) -> dict[str, Any]:
    """Return the section `stage` of a params.yaml as it stands, for a reader that checks the keys itself.

    Raises:
        UserError: there is no such file or section, it is not YAML, or DVC would not see a key change.
    """
    path = Path(path)
    document = _load_document(path)
    if not isinstance(document.get(stage), dict):
        raise UserError(f"{path}: the section '{stage}:' is missing")
    section: dict[str, Any] = document[stage]
    _check_seen_by_dvc(section, where=f"{path}: {stage}")
    return section


def _load_document(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    return document if isinstance(document, dict) else {}


def _check_seen_by_dvc(section: Any, where: str) -> None:
    """Raise UserError for a key that DVC's run cache ignores: after a change it would restore the old result."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key in UNSEEN_BY_DVC:
                raise UserError(
                    f"{where}.{key}: DVC leaves keys of this name out of its run cache, so a change "
                    "would go unnoticed; use another name"
                )
            _check_seen_by_dvc(value, f"{where}.{key}")
    elif isinstance(section, list):
        for value in section:
            _check_seen_by_dvc(value, where)


def check_params(section: Mapping[str, Any], model: type[Model], where: str) -> Model:
    """Return the section as its model.

    Args:
        section: the keys and values.
        model: the class that declares them.
        where: how messages begin: the file and the name of the section.

    Raises:
        UserError: a key is unknown or missing, or a value has another type or is out of its range.
    """
    try:
        return model.model_validate(dict(section))
    except ValidationError as error:
        raise _translate_error(_pick_error(error.errors(include_url=False)), section, model, where) from None


def check_given_params(section: Mapping[str, Any], model: type[ParamsModel], where: str) -> None:
    """Raise UserError for a wrong key or value in a section that need not be complete."""
    try:
        model.model_validate(dict(section))
    except ValidationError as error:
        if errors := [detail for detail in error.errors(include_url=False) if detail["type"] != "missing"]:
            raise _translate_error(_pick_error(errors), section, model, where) from None


# ---- pydantic's errors as messages ------------------------------------------------------------------------------


def _pick_error(errors: list[ErrorDetails], depth: int = 0) -> ErrorDetails:
    """Return the error to report: at each level an unknown key first, since a misspelt key is missing, too."""
    for detail in errors:
        if _is_unknown_key(detail) and len(detail["loc"]) == depth + 1:
            return detail
    first = errors[0]
    if len(first["loc"]) <= depth + 1:
        return first
    return _pick_error([detail for detail in errors if detail["loc"][: depth + 1] == first["loc"][: depth + 1]],
                       depth + 1)  # fmt: skip


def _is_unknown_key(detail: ErrorDetails) -> bool:
    return detail["type"] in ("extra_forbidden", "invalid_key")  # invalid_key: it is not even text


def _translate_error(
    detail: ErrorDetails, section: Mapping[str, Any], model: type[ParamsModel], where: str
) -> UserError:
    value: Any = section
    for key in detail["loc"]:
        if _is_unknown_key(detail) and key not in model.model_fields:
            return UserError(f"{where}: unknown key '{key}'; {suggest_name(key, model.model_fields)}")
        if not isinstance(value, Mapping) or key not in value:
            return UserError(f"{where}: the key '{key}' is missing")
        where, value, annotation = f"{where}.{key}", value[key], model.model_fields[str(key)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, ParamsModel)):
            return UserError(where + _describe_value_error(value, model, str(key)))
        model = annotation
        if not isinstance(value, Mapping):
            return UserError(f"{where}: must be a section with the keys {', '.join(model.model_fields)}")
    raised = detail["ctx"]["error"]  # by a validator of the whole model
    return raised if isinstance(raised, UserError) else UserError(f"{where}.{raised}")


def _describe_value_error(value: Any, model: type[ParamsModel], key: str) -> str:
    """Return what follows the key: the types or the range that `value` does not fit."""
    field = model.model_fields[key]
    types = list(dict.fromkeys(_iter_types(field.annotation)))
    if not _is_of_type(value, types):
        kinds = " or ".join(TYPE_NAMES[kind] for kind in types)
        return f": must be {kinds}, not {value!r}{_hint_at_number(value, types)}"
    if isinstance(value, list):
        return f": must hold only {TYPE_NAMES[get_args(field.annotation)[0]]}, not {value!r}"
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    hint = _hint_at_number(value, types)
    for note in field.metadata:
        if isinstance(note, RangeMessage):
            return note.text.replace("{value}", shown) + hint
        if isinstance(note, OneOf):
            return _describe_choices(note.values, value)
    if get_origin(field.annotation) is Literal:
        return _describe_choices(get_args(field.annotation), value)
    optional = ", or null" if NoneType in types else ""
    return f" is {shown}; give {_describe_range(field.metadata)}{optional}{hint}"


def _hint_at_number(value: Any, types: Collection[type]) -> str:
    """Return a hint for text where a number may stand, and that looks like one."""
    if isinstance(value, str) and (int in types or float in types):
        return suggest_number(value, whole=float not in types)
    return ""


def _describe_choices(values: Collection[Any], value: Any) -> str:
    names = ["null" if choice is None else str(choice) for choice in values]
    if number := _hint_at_number(value, [type(choice) for choice in values]):
        return f": must be one of {', '.join(names)}, not {value!r}{number}"
    hint = suggest_name(value, names)
    is_close = hint.startswith("did you mean") and value not in names  # '1' for 1 is near, but no hint
    return f": must be one of {', '.join(names)}, not {value!r}" + (f"; {hint}" if is_close else "")


def _describe_range(metadata: list[Any]) -> str:
    """Return the range of a number in words, from the constraints that pydantic keeps of a field."""
    limits = {name: getattr(note, name) for note in metadata for name in ("ge", "gt", "le", "lt")
              if hasattr(note, name)}  # fmt: skip
    match limits:
        case {"ge": low, "le": high}:
            return f"{low} to {high}"
        case {"gt": low, "lt": high}:
            return f"a number between {low} and {high}"
        case {"ge": low}:
            return f"{low} or more"
        case {"gt": low}:
            return f"a number above {low}"
        case _:
            return "a finite number" if not limits else f"a number within {limits}"


def _iter_types(annotation: Any) -> Iterator[type]:
    """Yield the plain types that an annotation allows, in its order."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _iter_types(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _iter_types(part)
    elif origin is Literal:
        yield from (type(value) for value in get_args(annotation))
    else:
        yield origin or annotation


def _is_of_type(value: object, types: Collection[type]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, tuple(types)) or (float in types and isinstance(value, int))
