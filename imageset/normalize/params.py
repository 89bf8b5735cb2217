"""The section `normalize` of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageset.decoding.spec import FIDELITIES, FITS, INTERPOLATIONS
from imageset.exceptions import UserError
from imageset.params import check_keys, load_section
from imageset.splits.leakage import ON_LEAK
from imageset.splits.split_rule import (
    SplitRule,
)

KNOWN_PARAMS: Mapping[str, Any] = {
    "size_px": (int, str),
    "channels": (int, str),
    "fit": str,
    "interpolation": str,
    "max_pixels": int,
    "max_reject_fraction": float,
    "split": {"seed": int, "val": float, "test": float},
}
OPTIONAL_SPLIT_PARAMS: Mapping[str, Any] = {
    "by": "hash",
    "val_from": None,
    "test_from": None,
    "group": None,
    "time": None,
}
# Keys that may be left out, and what that means: that nothing of the kind is done.
OPTIONAL_PARAMS: Mapping[str, Any] = {
    "fidelity": "exact",
    "near_duplicate_bits": None,
    "on_leak": "warn",
    "min_test_per_class": 0,
}


def read_normalize_params(path: str | Path) -> dict[str, Any]:
    """The checked section `normalize` of a params.yaml.

    Raises:
        UserError: it is missing or wrong.
    """
    return check_normalize_params(load_section(path, "normalize"))


def check_normalize_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with what was left out filled in; UserError for a wrong key or a value out of range."""
    params = dict(OPTIONAL_PARAMS) | dict(params)
    if isinstance(params.get("split"), Mapping):
        params["split"] = dict(OPTIONAL_SPLIT_PARAMS) | params["split"]
    known = dict(KNOWN_PARAMS) | {
        "split": dict(KNOWN_PARAMS["split"]) | dict.fromkeys(OPTIONAL_SPLIT_PARAMS),  # SplitRule checks these
        "fidelity": str,
        "near_duplicate_bits": (int, type(None)),
        "on_leak": str,
        "min_test_per_class": int,
    }
    check_keys(params, known, where="params.yaml: normalize")
    choices = {
        "fit": FITS,
        "interpolation": tuple(INTERPOLATIONS),
        "channels": ("auto", 1, 3),
        "fidelity": FIDELITIES,
        "on_leak": ON_LEAK,
        "near_duplicate_bits": (None, *range(9)),
    }
    for key, allowed in choices.items():
        if params[key] not in allowed:
            raise UserError(
                f"params.yaml: normalize.{key}: must be one of {', '.join(map(str, allowed))}, not {params[key]!r}"
            )
    size = params["size_px"]
    if size != "auto" and not (isinstance(size, int) and 1 <= size <= 4096):
        raise UserError(f"params.yaml: normalize.size_px: must be auto or 1 to 4096 (px), not {size!r}")
    if params["max_pixels"] < 1:
        raise UserError("params.yaml: normalize.max_pixels: must be positive")
    if not 0 <= params["max_reject_fraction"] <= 1:
        raise UserError("params.yaml: normalize.max_reject_fraction: must be from 0 to 1")
    SplitRule(**params["split"])
    return params
