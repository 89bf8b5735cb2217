"""Presets: small files with values for keys of `train`; `convoy preset NAME` copies them into params.yaml.

params.yaml stays the only place of every number, DVC sees each change, and a preset hides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from flows.project import params_yaml
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.utils.text import suggest_name

PRESETS_DIR = "presets"


def apply_preset(name: str, project: Project) -> str:
    """Write the values of `presets/NAME.yaml` into the section `train` of params.yaml; comments are kept.

    Args:
        name: the preset's name.
        project: folder of the project.

    Returns:
        One line with the keys that changed.

    Raises:
        UserError: there is no such preset, a file cannot be read, or `train` does not have a key of the preset.
    """
    known = sorted(path.stem for path in (project / PRESETS_DIR).glob("*.yaml"))
    if name not in known:
        hint = suggest_name(name, known) if known else f"the folder {PRESETS_DIR} has none"
        raise UserError(f"no preset {name!r}; {hint}")
    path = project / "params.yaml"
    params = params_yaml.read_commented_yaml(path)
    preset = params_yaml.read_commented_yaml(project / PRESETS_DIR / f"{name}.yaml")
    if not isinstance(params.get("train"), MutableMapping):
        raise UserError(f"{path}: the section 'train:' is missing")
    changed = _merge_preset(params["train"], preset, f"{PRESETS_DIR}/{name}.yaml")
    if not changed:
        return f"preset {name}: params.yaml holds these values already"
    params_yaml.write_commented_yaml(path, params)
    return f"preset {name}: changed in params.yaml: {', '.join(changed)}; `convoy run` trains with them"


def _merge_preset(
    section: MutableMapping[str, Any], preset: Mapping[str, Any], source: str, prefix: str = ""
) -> list[str]:
    """Set the preset's values in the section; return the dotted names of the keys whose value changed."""
    changed = []
    for key, value in preset.items():
        if key not in section and prefix != "trainer.":  # the Trainer has more options than params.yaml lists
            raise UserError(f"{source}: unknown key '{prefix}{key}'; {suggest_name(key, section)}")
        if isinstance(value, Mapping) and "class_path" not in value and isinstance(section[key], MutableMapping):
            changed += _merge_preset(section[key], value, source, f"{prefix}{key}.")
        elif section.get(key) != value:
            section[key] = value
            changed.append(f"{prefix}{key}")
    return changed
