"""`convoy upgrade`: let a project use the version of Convoy that is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from flows.project import params_yaml
from flows.project.params_schema import SCHEMA_FILE, ParamsFile, format_schema
from flows.project.paths import PARAMS, TEMPLATES
from flows.project.project import Project
from imageset.distribution import DISTRIBUTION, get_version
from imageset.exceptions import UserError
from imageset.params import ParamsModel, read_convoy_version
from imageset.utils.atomic_write import write_text

# Why the work of a stage that runs again may be little.
SHORTCUTS = {"normalize": "pictures that are decoded already are reused where the decoder is the same"}
STAGE_KEYS = ("cmd", "deps", "params", "metrics", "outs")  # of a stage in dvc.yaml, in the order of the template


@dataclass(frozen=True)
class UpgradeResult:
    """The lines of an upgrade: what changes, and which stages run again."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def upgrade_project(project: Project, dry_run: bool = False) -> UpgradeResult:
    """Write the installed version into params.yaml, with keys and stages that are new in it.

    Args:
        project: the project.
        dry_run: whether only to say what would change.

    Raises:
        UserError: the project is of a newer version, or its stages depend on Convoy's code itself.
    """
    before, after = read_convoy_version(project / PARAMS), get_version()
    if before is None:
        raise UserError(
            f"{project / PARAMS}: no section 'convoy:'; the stages depend on Convoy's code itself, "
            "so DVC sees by itself what an update changes: `dvc status`"
        )
    if before == after:
        return UpgradeResult((f"the project is of Convoy {after} already",))
    if _parse_version(before) > _parse_version(after):
        raise UserError(
            f"{project / PARAMS}: the project is of Convoy {before}, and {after}, which is installed, is older; "
            f"install {before} or a later one: pip install '{DISTRIBUTION}>={before}'"
        )
    return UpgradeResult(tuple(_upgrade(project, before, after, dry_run)))


def _parse_version(text: str) -> Any:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        raise UserError(f"{PARAMS}: convoy.version: {text!r} is not a version, e.g. {get_version()}") from None


def _upgrade(project: Project, before: str, after: str, dry_run: bool) -> Iterator[str]:
    params = params_yaml.read_commented_yaml(project / PARAMS)
    pipeline = params_yaml.read_commented_yaml(project / "dvc.yaml")
    new_keys = list(add_new_keys(params, params_yaml.read_commented_yaml(TEMPLATES / PARAMS)))
    changed_stages = list(update_stages(pipeline, params_yaml.read_commented_yaml(TEMPLATES / "pipeline.yaml")))
    params["convoy"]["version"] = after
    yield f"convoy.version in params.yaml: {before} -> {after}"
    yield from (f"new in params.yaml: {key}" for key in new_keys)
    yield from (f"changed in dvc.yaml: stage {stage}" for stage in changed_stages)
    for stage in pipeline["stages"]:
        if "convoy.version" in (pipeline["stages"][stage].get("params") or ()):
            shortcut = f"; {SHORTCUTS[stage]}" if stage in SHORTCUTS else ""
            yield f"runs again: {stage}, since it depends on convoy.version{shortcut}"
    if dry_run:
        yield "nothing was written; `convoy upgrade` does it"
        return
    params_yaml.write_commented_yaml(project / "dvc.yaml", pipeline)
    write_text(project / SCHEMA_FILE, format_schema())
    params_yaml.write_commented_yaml(project / PARAMS, params)  # last: it says that the upgrade is complete
    yield "next: `convoy run` trains with it, and promotes the model only if it is better"


def add_new_keys(params: MutableMapping[str, Any], template: Mapping[str, Any]) -> Iterator[str]:
    """Add the keys that this version requires, with the values and comments of a new project; yield their names.

    A key with a default may have been left out on purpose and stays so.
    """
    for section in ParamsFile.model_fields:
        if section in template and section not in ("name", "convoy"):
            if section not in params:
                params[section] = template[section]
                yield section
            elif isinstance(params[section], MutableMapping):
                yield from _add_to_section(params[section], template[section], _find_model(section), f"{section}.")


def _find_model(section: str) -> type[ParamsModel] | None:
    annotation = ParamsFile.model_fields[section].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, ParamsModel) else None


def _add_to_section(
    section: MutableMapping[str, Any], template: Any, model: type[ParamsModel] | None, prefix: str
) -> Iterator[str]:
    previous = ""
    for key in template:
        field = model.model_fields.get(key) if model is not None else None
        is_optional = field is not None and not field.is_required()
        if key not in section and not is_optional and prefix != "train.trainer.":
            keys = list(section)
            position = keys.index(previous) + 1 if previous in keys else len(keys)
            section.insert(position, key, template[key])  # type: ignore[attr-defined]  # of ruamel's mappings
            if key in template.ca.items:
                section.ca.items[key] = template.ca.items[key]  # type: ignore[attr-defined]
            yield f"{prefix}{key}"
        elif _is_section(section.get(key)) and _is_section(template[key]) and key != "space":
            inner = field.annotation if field is not None and isinstance(field.annotation, type) else None
            nested = inner if inner is not None and issubclass(inner, ParamsModel) else None
            yield from _add_to_section(section[key], template[key], nested, f"{prefix}{key}.")
        previous = key


def _is_section(value: Any) -> bool:
    return isinstance(value, MutableMapping) and "class_path" not in value


def update_stages(pipeline: MutableMapping[str, Any], template: Mapping[str, Any]) -> Iterator[str]:
    """Give Convoy's stages the command, parameters and outputs of this version; yield the names of changed ones.

    Dependencies, parameters and outputs that a user added stay.
    """
    stages = pipeline["stages"]
    for name, new in template["stages"].items():
        if name not in stages:
            stages[name] = new
            yield name
            continue
        before = {key: str(stages[name].get(key)) for key in STAGE_KEYS}
        for key in (key for key in STAGE_KEYS if key in new):
            if isinstance(new[key], str) or key not in stages[name]:
                stages[name][key] = new[key]
            else:
                present = [_get_path(entry) for entry in stages[name][key]]
                stages[name][key] += [entry for entry in new[key] if _get_path(entry) not in present]
        if before != {key: str(stages[name].get(key)) for key in STAGE_KEYS}:
            yield name


def _get_path(entry: Any) -> str:
    """Return the path of an entry of a stage, which may have options: `{data/normalized: {persist: true}}`."""
    return str(next(iter(entry))) if isinstance(entry, Mapping) else str(entry)
