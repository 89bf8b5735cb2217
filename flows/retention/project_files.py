"""Find pictures in the files of a project: data, reports, caches, reviews, pages of drift checks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from flows.labeling.formats.tools import DOCUMENTS
from flows.labeling.review import PAGE_FILE, TABLE_FILE
from flows.monitoring.batch_log import MONITOR_DIR
from flows.prediction.cache import CacheShard, PredictionCache
from flows.project.dvc_lock import protect_dvc_lock
from flows.project.exceptions import ProjectBusy
from flows.project.paths import CACHE, CLASSIFIER, FEATURES, NORMALIZED, RAW, REPORT
from flows.project.project import Project
from flows.retention.actions import Action, remove_path
from flows.retention.byte_search import iter_files
from flows.retention.stores.artifacts import shows_batch
from flows.retention.stores.dataset_versions import (
    PAGE_SUFFIX,
    Holdings,
    read_rows,
    samples_picture,
    shows_pictures,
)
from flows.retention.stores.object_store import ObjectStore, locked_repo, read_folder
from flows.retention.stores.shared_objects import list_other_projects
from flows.versioning import dvc_repo
from flows.versioning.dvc_repo import read_last_source
from imageset.exceptions import UserError
from imageset.raw.label_log import LABEL_LOG_FILE
from imageset.raw.records import RECORDS_FILE
from imageset.store.format import INDEX_FILE, LEAKS_FILE, PEAKS_FILE, REJECTED_FILE
from imageset.utils.atomic_write import write_bytes, write_text
from lightning_modules.bundle import FORGOTTEN_NOTE, FORGOTTEN_TEXT, REFERENCE_FILE
from lightning_modules.features.frozen_features import FILE_SUFFIX

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?:partial|earlier)")  # in data/: of `replace_folder` in a killed process
PREDICTION_CACHE, SWEEPS = "predictions", "sweep"  # in .cache
PAGE_STAGES = ("evaluate", "explain")
SHARD_NAME = re.compile(r"[0-9a-f]{32}")


def find_actions(
    project: Project, image_ids: Collection[str], holdings: Holdings, stores: Collection[ObjectStore]
) -> Iterator[Action]:
    """Yield what has to change in the project's own files.

    Args:
        project: the project.
        image_ids: SHA-256 of each picture.
        holdings: what is known of the versions of its dataset.
        stores: DVC's cache and remotes.
    """
    yield from _find_in_data(project, image_ids, holdings)
    yield from _find_in_reports(project, holdings, image_ids)
    yield from _find_in_bundle(project, image_ids, stores)
    yield from _find_in_answers(project, image_ids)
    yield from _find_in_features(project, image_ids)
    yield from _find_in_reviews(project, image_ids)
    for page in sorted((project / MONITOR_DIR).glob(f"*{PAGE_SUFFIX}")):
        if shows_batch(project, page.stem, image_ids):
            yield Action.to_remove(project, page, "pages of drift checks are removed", MONITOR_DIR.as_posix())
    for path in iter_files(project / CACHE / SWEEPS):
        if shows_pictures(_relative(path, project)):
            yield Action.to_remove(project, path, "pages of trials are removed", f".cache/{SWEEPS}")


# ---- data/raw and data/normalized -------------------------------------------------------------------


def _find_in_data(project: Project, image_ids: Collection[str], holdings: Holdings) -> Iterator[Action]:
    for path in iter_leftovers(project):
        yield Action.to_remove(project, path, "left by a process that was killed, removed")
    if _names_picture(project / RAW / RECORDS_FILE, image_ids) or _is_in_log(project, image_ids):
        text = "rewritten without it, and versioned by DVC, as after an ingest"
        yield Action(RAW.as_posix(), text, partial(forget_in_raw, project, image_ids))
    elif _read_raw_version(project) in holdings.folders:
        yield Action(RAW.as_posix(), "versioned by DVC", partial(_version_raw, project))
    tables = (INDEX_FILE, LEAKS_FILE, PEAKS_FILE, REJECTED_FILE)
    if any(_names_picture(project / NORMALIZED / name, image_ids) for name in tables):
        text = "`dvc repro normalize` writes it without the picture; no other picture is decoded again"
        yield Action(NORMALIZED.as_posix(), text, partial(normalize_again, project))


def iter_leftovers(project: Project) -> Iterator[Path]:
    """Yield what processes that were killed left in data/, beside the folder that they were replacing."""
    for path in sorted((project / "data").glob(".*")):
        match = LEFTOVER.fullmatch(path.name)
        if match is not None and path.with_name(match["name"]).exists():
            yield path


def restore_folders(project: Project) -> None:
    """Give the data its place back where a process was killed between the two renames of `replace_folder`."""
    for folder in (project / RAW, project / NORMALIZED):
        earlier = folder.with_name(f".{folder.name}.earlier")
        if earlier.is_dir() and not folder.exists():
            os.replace(earlier, folder)


def _names_picture(path: Path, image_ids: Collection[str]) -> bool:
    return path.is_file() and bool(read_rows(path, ["image_id"], image_ids))


def _is_in_log(project: Project, image_ids: Collection[str]) -> bool:
    path = project / RAW / LABEL_LOG_FILE
    text = path.read_bytes() if path.is_file() else b""
    return any(image_id.encode() in text for image_id in image_ids)


def _read_raw_version(project: Project) -> str | None:
    pointer = project / f"{RAW}.dvc"
    outs = dvc_repo.read_yaml(pointer).get("outs") if pointer.is_file() else None
    return str(outs[0].get("md5")) if outs else None


def forget_in_raw(project: Project, image_ids: Collection[str]) -> None:
    """Remove pictures from data/raw, and version it."""
    from imageset.raw.forgetting import forget_images

    forget_images(project / RAW, image_ids)
    _version_raw(project)


def _version_raw(project: Project) -> None:
    if (project / f"{RAW}.dvc").is_file():
        dvc_repo.add_raw(project, read_last_source(project), project.read_name())


def normalize_again(project: Project) -> None:
    """Run the stage `normalize`; if it cannot run, data/normalized is removed."""
    try:
        with protect_dvc_lock(project.folder):
            dvc_repo.run_dvc(project.folder, "repro", "--single-item", "normalize")
    except ProjectBusy:
        raise
    except UserError as error:
        remove_path(project / NORMALIZED)
        dvc_repo.logger.warning(
            "%s is removed, since it cannot be written without the picture: %s; `convoy run` writes it",
            NORMALIZED,
            str(error)[:300],
        )


# ---- reports and the bundle -------------------------------------------------------------------------


def _find_in_reports(project: Project, holdings: Holdings, image_ids: Collection[str]) -> Iterator[Action]:
    pages = [path for path in iter_files(project / REPORT) if shows_pictures(_relative(path, project))]
    if not pages or not _is_report_of(project, holdings, image_ids):
        return
    for path in pages:
        yield Action.to_remove(project, path, "pages and thumbnails are removed", REPORT.as_posix())
    text = f"dvc.lock loses {' and '.join(PAGE_STAGES)}, which run again with the next `convoy run`"
    yield Action(REPORT.as_posix(), text, partial(forget_stages, project))


def _relative(path: Path, project: Project) -> PurePosixPath:
    return PurePosixPath(path.relative_to(project.folder))


def _is_report_of(project: Project, holdings: Holdings, image_ids: Collection[str]) -> bool:
    """Return whether the report is, or may be, of a dataset with a picture."""
    text = dvc_repo.read_lock(project)
    deps = [dep for stage in PAGE_STAGES for dep in dvc_repo.read_stage_lock(text, stage).get("deps") or []]
    datasets = {str(dep.get("md5")) for dep in deps if dep.get("path") == NORMALIZED.as_posix()}
    is_known = bool(datasets) and datasets <= holdings.known
    return not is_known or bool(datasets & holdings.folders)


def forget_stages(project: Project) -> None:
    """Take the stages that write the report out of dvc.lock, as if they had never run."""
    import yaml

    text = dvc_repo.read_lock(project)
    if not text:
        return
    document = yaml.safe_load(text)
    for stage in PAGE_STAGES:
        document["stages"].pop(stage, None)
    write_text(project / "dvc.lock", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _find_in_bundle(
    project: Project, image_ids: Collection[str], stores: Collection[ObjectStore]
) -> Iterator[Action]:
    versioned = dvc_repo.find_output_md5(
        dvc_repo.read_stage_lock(dvc_repo.read_lock(project), "train"), CLASSIFIER
    )
    path = project / CLASSIFIER / REFERENCE_FILE
    if path.is_file() and samples_picture(path.read_bytes(), image_ids):
        text = "its reference sample is removed; drift checks need the next training"
        yield Action(CLASSIFIER.as_posix(), text, partial(forget_reference, project))
    elif not path.is_file() and versioned is not None and REFERENCE_FILE in read_folder(stores, versioned):
        yield Action(CLASSIFIER.as_posix(), "versioned by DVC", partial(version_bundle, project))


def forget_reference(project: Project) -> None:
    """Remove the reference sample of data/models/classifier, and let dvc.lock name the bundle without it."""
    write_bytes(project / CLASSIFIER / FORGOTTEN_NOTE, FORGOTTEN_TEXT)
    remove_path(project / CLASSIFIER / REFERENCE_FILE)
    version_bundle(project)


def version_bundle(project: Project) -> None:
    """Let dvc.lock name data/models/classifier as it is now; what it was trained on stays what it was."""
    import yaml

    text = dvc_repo.read_lock(project)
    before = dvc_repo.find_output_md5(dvc_repo.read_stage_lock(text, "train"), CLASSIFIER)
    if before is None:
        return
    with locked_repo(project) as repo:
        (saved,) = repo.find_outs_by_path(str(project / CLASSIFIER))
        saved.save()
        saved.commit()
    document = yaml.safe_load(text)
    entry = next(out for out in document["stages"]["train"]["outs"] if out["path"] == CLASSIFIER.as_posix())
    if entry["md5"] != saved.hash_info.value:
        entry |= {"md5": saved.hash_info.value, "size": saved.meta.size, "nfiles": saved.meta.nfiles}
        write_text(project / "dvc.lock", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


# ---- caches -----------------------------------------------------------------------------------------


def _find_in_answers(project: Project, image_ids: Collection[str]) -> Iterator[Action]:
    for path in sorted((project / CACHE / PREDICTION_CACHE).glob("*/*.parquet")):
        table = PredictionCache(path.parent, "").load_shard(path.stem, ["image_id"])
        if table is not None and not set(image_ids).isdisjoint(table["image_id"].to_pylist()):
            text = "answers about it are removed"
            yield Action(f".cache/{PREDICTION_CACHE}", text, partial(forget_answers, path, image_ids))


def forget_answers(path: Path, image_ids: Collection[str]) -> None:
    """Rewrite a shard of answers without pictures, under another name: the old one stands for its pictures.

    In the record of an earlier Convoy, which names shards, the new one counts as delivered if the old one does.
    """
    cache = PredictionCache(path.parent, "")
    with cache.cache_lock(on_busy=lambda: None):
        _forget_answers(cache, path, image_ids)


def _forget_answers(cache: PredictionCache, path: Path, image_ids: Collection[str]) -> None:
    rows = [row for row in cache.iter_rows([path.stem]) if row["image_id"] not in image_ids]
    name = hashlib.sha256(f"{path.stem}{json.dumps([row['image_id'] for row in rows])}".encode()).hexdigest()[:32]
    shard = CacheShard(name, [])
    shard.rows = list(rows)
    cache.write_shard(shard)
    delivered = path.parent / "delivered.txt"
    names = delivered.read_text(encoding="utf-8", errors="replace").split() if delivered.is_file() else []
    if (match := SHARD_NAME.match(path.stem)) is not None and match[0] in names:
        write_text(delivered, "".join(f"{line}\n" for line in sorted({*names, name})))
    remove_path(path)


def _find_in_features(project: Project, image_ids: Collection[str]) -> Iterator[Action]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    wanted = {bytes.fromhex(image_id) for image_id in image_ids}
    for path in sorted((project / FEATURES).glob(f"*/*{FILE_SUFFIX}")):
        try:
            rows = load_file(path)["image_id"]
        except (OSError, KeyError, SafetensorError):
            yield Action.to_remove(project, path, "damaged files are removed", FEATURES.as_posix())
            continue
        if any(row.tobytes() in wanted for row in rows):
            yield Action(FEATURES.as_posix(), "its features are removed", partial(forget_features, path, wanted))


def forget_features(path: Path, wanted: Collection[bytes]) -> None:
    """Rewrite a file of features without pictures; its name is the digest of its content."""
    import numpy as np
    from safetensors.numpy import load_file, save

    arrays = load_file(path)
    kept = np.array([row.tobytes() not in wanted for row in arrays["image_id"]])
    if kept.any():
        data = save({name: np.ascontiguousarray(array[kept]) for name, array in arrays.items()})
        write_bytes(path.with_name(f"{hashlib.sha256(data).hexdigest()}{FILE_SUFFIX}"), data)
    remove_path(path)


# ---- reviews ----------------------------------------------------------------------------------------


def _find_in_reviews(project: Project, image_ids: Collection[str]) -> Iterator[Action]:
    others = [other.folder for other in list_other_projects(project)]
    for table in iter_files(project.folder, [project / CACHE, project / RAW, project / NORMALIZED, *others]):
        rows = (_read_review(table) if table.name == TABLE_FILE else None) or []
        if any(row.get("image_id") in image_ids for row in rows):
            place = str(table.parent.relative_to(project.folder))
            text = "its copy and its row are removed, and the page and the document that show it"
            yield Action(place, text, partial(forget_in_review, table.parent, image_ids))


def _read_review(table: Path) -> list[dict[str, Any]] | None:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            return list(reader) if {"path", "image_id"} <= set(reader.fieldnames or ()) else None
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def forget_in_review(folder: Path, image_ids: Collection[str]) -> None:
    """Remove pictures from a folder of `predict --review`; the table, which says where they are, is last."""
    rows = _read_review(folder / TABLE_FILE) or []
    for name in (PAGE_FILE, *DOCUMENTS.values()):
        remove_path(folder / name)
    for row in rows:
        copy = folder / row["path"]
        if row["image_id"] in image_ids and copy.resolve().is_relative_to(folder.resolve()) and copy.is_file():
            remove_path(copy)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(row for row in rows if row["image_id"] not in image_ids)
    write_bytes(folder / TABLE_FILE, text.getvalue().encode())
