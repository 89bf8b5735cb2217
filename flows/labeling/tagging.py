"""Smart tagging: what a model saw in each picture, written as XMP into copies of the pictures, or beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.labeling import xmp
from flows.prediction.cache import ImageRef
from flows.prediction.image_stream import ImageStream
from imageset.exceptions import UserError
from imageset.labels import parse_labels
from imageset.utils.atomic_write import replace_file, write_bytes

TAGGING_WAYS = ("xmp", "sidecar")
TAGGED = "tagged"  # the cause of those that were


def check_tagging(tag: str | None, in_place: bool, pictures: ImageStream) -> None:
    """Raise UserError where --in-place has nothing to write into."""
    if in_place and tag is None:
        raise UserError("--in-place says where tags are written; say how with --tag xmp or --tag sidecar")
    if in_place and pictures.folder is None:
        raise UserError("--in-place: only pictures that are files of a folder can be written to; leave it out")


def tag_images(
    pictures: ImageStream, rows: Iterable[dict[str, Any]], way: str, target: Path | None, multi_label: bool = False
) -> Counter[str]:
    """Write each row's label to its picture; returns how many were tagged, and how many not, by cause.

    Args:
        rows: of these pictures or of some of them, in their order.
        way: "xmp" writes into JPEG and PNG files and beside all others, "sidecar" beside all (NAME.xmp).
        multi_label: a row's label is a set; each of it becomes a tag.
        target: folder for copies ("sidecar": for those files alone), named as in the source; None: in place.
    """
    done: Counter[str] = Counter()
    for picture, data, row in _join_rows(pictures, rows):
        tags = parse_labels(row["label"] or "") if multi_label else [row["label"]]
        cause = _find_skip_reason(picture, row) or (None if tags else "none of the labels")
        if cause is None:
            path = pictures.to_path(picture.uri) if target is None else _resolve_below(target, picture.uri)
            cause = _write_tags(path, data, _build_packet(row, tags), way, in_place=target is None)
        done[cause] += 1
    return done


def _join_rows(
    pictures: Iterable[tuple[ImageRef, bytes]], rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[ImageRef, bytes, dict[str, Any]]]:
    """Each row with its picture."""
    left = iter(rows)
    row = next(left, None)
    for picture, data in pictures:
        if row is None:
            return
        if row["uri"] == picture.uri:
            yield picture, data, row
            row = next(left, None)


def _find_skip_reason(picture: ImageRef, row: dict[str, Any]) -> str | None:
    if row["image_id"] != picture.image_id or picture.image_id is None:
        return "changed or gone meanwhile" if row["image_id"] else "could not be read"
    return None if row["label"] is not None else f"no label ({row['status']})"


def _build_packet(row: dict[str, Any], tags: list[str]) -> bytes:
    model = f"{row['model_name']} version {row['model_version']}"
    return xmp.build_packet(tags, {"probability": f"{row['probability']:.4f}", "model": model})


def _write_tags(path: Path, data: bytes, packet: bytes, way: str, in_place: bool) -> str:
    """Write the tags; returns TAGGED or why not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.xmp")
    if way == "xmp" and data.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        try:
            tagged = xmp.embed_packet(data, packet)
        except xmp.TaggingError as reason:
            if not in_place:
                write_bytes(path, data)
            return str(reason)
        with replace_file(path) as temporary:
            temporary.write_bytes(tagged)
            if in_place:
                temporary.chmod(path.stat().st_mode & 0o7777)
        return TAGGED
    if way == "xmp" and not in_place:
        write_bytes(path, data)
    if in_place and beside.exists() and xmp.TOOLKIT not in beside.read_bytes():
        return "a sidecar file that is not from us stands beside it"
    write_bytes(beside, packet)
    return TAGGED


def _resolve_below(folder: Path, uri: str) -> Path:
    """A place below the folder, whatever an archive calls its members."""
    parts = [part for part in uri.split("/") if part not in ("", ".", "..")]
    return folder.joinpath(*parts) if parts else folder / "picture"
