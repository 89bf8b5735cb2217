"""Presets: small files with values for keys of params.yaml; `convoy preset NAME` copies them there.

Some come with Convoy; a project may have its own in its folder `presets`.

params.yaml stays the only place of every number, DVC sees each change, and a preset hides nothing. Presets are
complete: each sets every key that another one sets, so the one that was applied last decides alone.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from flows.project import params_yaml
from flows.project.paths import TEMPLATES
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.utils.text import suggest_name

PRESETS_DIR = "presets"
DEFAULT_PRESET = "default"  # its keys may be missing from an older params.yaml


def apply_preset(name: str, project: Project) -> str:
    """Write the values of a preset into params.yaml; comments are kept.

    A file whose keys are not sections of params.yaml holds keys of `train`.

    Args:
        name: the preset's name.
        project: folder of the project.

    Returns:
        One line with the keys that changed.

    Raises:
        UserError: there is no such preset, a file cannot be read, or params.yaml has no such key.
    """
    known = list_presets(project)
    if name not in known:
        raise UserError(f"no preset {name!r}; {suggest_name(name, known)}")
    path = project / "params.yaml"
    params = params_yaml.read_commented_yaml(path)
    preset, default = (_read_preset(project, each, params) for each in (name, DEFAULT_PRESET))
    if not isinstance(params.get("train"), MutableMapping):
        raise UserError(f"{path}: the section 'train:' is missing")
    changed = merge_preset(params, preset, default, f"{PRESETS_DIR}/{name}.yaml")
    if not changed:
        return f"preset {name}: params.yaml holds these values already"
    params_yaml.write_commented_yaml(path, params)
    return f"preset {name}: changed in params.yaml: {', '.join(changed)}; `convoy run` trains with them"


def list_presets(project: Project) -> list[str]:
    """List the names of the presets that come with Convoy, and of those in the project's folder `presets`."""
    folders = (TEMPLATES / PRESETS_DIR, project / PRESETS_DIR)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _read_preset(project: Project, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a preset as a mapping of sections; the project's own one is taken if there are two of the name."""
    own = project / PRESETS_DIR / f"{name}.yaml"
    path = own if own.exists() else TEMPLATES / PRESETS_DIR / f"{name}.yaml"
    preset: Mapping[str, Any] = params_yaml.read_commented_yaml(path)
    return preset if set(preset) <= set(params) else {"train": preset}


def merge_preset(
    section: MutableMapping[str, Any],
    preset: Mapping[str, Any],
    default: Mapping[str, Any],
    source: str,
    prefix: str = "",
) -> list[str]:
    """Set the preset's values in the section; return the dotted names of the keys whose value changed.

    Args:
        section: the section of params.yaml.
        preset: the values for it.
        default: the values of the default preset, whose keys are known, too.
        source: the preset's file, for messages.
        prefix: names of the sections around it, for messages.
    """
    changed = []
    for key, value in preset.items():
        known = {*section, *default}
        if key not in known and prefix != "train.trainer.":  # the Trainer has more options than params.yaml lists
            raise UserError(f"{source}: unknown key '{prefix}{key}'; {suggest_name(key, known)}")
        if (
            isinstance(value, Mapping)
            and "class_path" not in value
            and isinstance(section.get(key), MutableMapping)
        ):
            changed += merge_preset(section[key], value, default.get(key) or {}, source, f"{prefix}{key}.")
        elif key not in section or section[key] != value:
            section[key] = value
            changed.append(f"{prefix}{key}")
    return changed
