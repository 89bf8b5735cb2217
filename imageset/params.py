"""Read one stage's section of params.yaml, strictly: an unknown or a missing key is an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageset.exceptions import UserError
from imageset.utils.text import suggest_name

UNSEEN_BY_DVC = frozenset({"size", "nfiles"})  # dvc.stage.cache._get_cache_hash


def load_params(path: str | Path, section: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `stage` of a params.yaml.

    `known` names every key the stage understands. Its values are a type, a tuple of types, a nested mapping of the
    same shape for a sub-section, or None for "anything".

    Raises:
        UserError: no such file or section, not YAML, an unknown key (the nearest known one is named), a missing
            key, or a value of another type.
    """
    values = load_section(path, section)
    check_keys(values, known, where=f"{path}: {section}")
    return values


def load_section(path: str | Path, stage: str) -> dict[str, Any]:
    """Return the section `stage` of a params.yaml as it stands, for a reader that checks the keys itself.

    Raises:
        UserError: no such file or section, or not YAML.
    """
    import yaml

    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not isinstance(document.get(stage), dict):
        raise UserError(f"{path}: the section '{stage}:' is missing")
    section: dict[str, Any] = document[stage]
    _check_seen_by_dvc(section, where=f"{path}: {stage}")
    return section


def _check_seen_by_dvc(section: Any, where: str) -> None:
    """DVC's run cache hashes parameters without these keys: after a change it would restore the old result."""
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


def check_keys(section: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a key that is unknown, missing, or of another type than `known` says."""
    for key in section:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; {suggest_name(key, known)}")
    for key, kind in known.items():
        if key not in section:
            raise UserError(f"{where}: the key '{key}' is missing")
        if isinstance(kind, Mapping):
            if not isinstance(section[key], Mapping):
                raise UserError(f"{where}.{key}: must be a section with the keys {', '.join(kind)}")
            check_keys(section[key], kind, f"{where}.{key}")
        elif kind is not None and not _is_of_type(section[key], kind):
            raise UserError(f"{where}.{key}: must be {_describe_type(kind)}, not {section[key]!r}")


def _is_of_type(value: object, kind: Any) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _describe_type(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(words.get(one, getattr(one, "__name__", str(one))) for one in kinds)
