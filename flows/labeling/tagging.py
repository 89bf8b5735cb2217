"""Write predicted labels as XMP into images, into copies of them, or into sidecar files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.labeling import xmp, xmp_packet
from flows.labeling.xmp_packet import Tags
from flows.prediction.cache import ImageRef
from flows.prediction.image_stream import ImageStream
from imageset.exceptions import UserError
from imageset.labels import parse_labels
from imageset.utils.atomic_write import replace_file, write_bytes

TAGGING_WAYS = ("xmp", "sidecar")
TAGGED = "tagged"  # outcome of an image that was tagged; any other outcome is the reason why not


def check_tag_options(tag: str | None, in_place: bool) -> None:
    """Raise UserError if --in-place is given without a way to tag."""
    if in_place and tag is None:
        raise UserError("--in-place tells where to write tags, not how; add --tag xmp or --tag sidecar")


def check_tagging(tag: str | None, in_place: bool, images: ImageStream) -> None:
    """Raise UserError if --in-place has no files to write to."""
    check_tag_options(tag, in_place)
    if in_place and images.folder is None:
        raise UserError("--in-place: only pictures that are files of a folder can be written to; leave it out")


def tag_images(
    images: ImageStream, rows: Iterable[dict[str, Any]], way: str, target: Path | None, multi_label: bool = False
) -> Counter[str]:
    """Write each row's label to its image.

    Args:
        images: the images of the source.
        rows: predictions of all or some of these images, in the same order.
        way: "xmp" writes into JPEG and PNG files and beside all others, "sidecar" beside all (NAME.xmp).
        target: folder for copies ("sidecar": for the sidecar files only), named as in the source; None: in place.
        multi_label: a row's label is a set; each label in it becomes a tag.

    Returns:
        The number of images by outcome: TAGGED, or the reason why an image was not tagged.
    """
    outcomes: Counter[str] = Counter()
    for image, data, row in _join_rows(images, rows):
        tags = parse_labels(row["label"] or "") if multi_label else [row["label"]]
        outcome = _find_skip_reason(image, row) or (None if tags else "without any label")
        if outcome is None:
            path = images.to_path(image.uri) if target is None else _resolve_below(target, image.uri)
            outcome = _write_tags(path, data, _build_tags(row, tags), way, in_place=target is None)
        outcomes[outcome] += 1
    return outcomes


def _join_rows(
    images: Iterable[tuple[ImageRef, bytes]], rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[ImageRef, bytes, dict[str, Any]]]:
    """Yield each row with its image and the image's bytes."""
    remaining = iter(rows)
    row = next(remaining, None)
    for image, data in images:
        if row is None:
            return
        if row["uri"] == image.uri:
            yield image, data, row
            row = next(remaining, None)


def _find_skip_reason(image: ImageRef, row: dict[str, Any]) -> str | None:
    if row["image_id"] != image.image_id or image.image_id is None:
        return "changed or gone meanwhile" if row["image_id"] else "could not be read"
    return None if row["label"] is not None else f"no label ({row['status']})"


def _build_tags(row: dict[str, Any], subjects: list[str]) -> Tags:
    model = f"{row['model_name']} version {row['model_version']}"
    return Tags(subjects, {"probability": f"{row['probability']:.4f}", "model": model})


def _write_tags(path: Path, data: bytes, tags: Tags, way: str, in_place: bool) -> str:
    """Write the tags; return TAGGED, or the reason why they were not written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if way == "xmp" and data.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        try:
            tagged = xmp.embed_tags(data, tags)
        except xmp.TaggingError as error:
            if not in_place:
                write_bytes(path, data)
            return str(error)
        _replace_bytes(path, tagged, keep_mode=in_place)
        return TAGGED
    if way == "xmp" and not in_place:
        write_bytes(path, data)
    return _write_sidecar(path.with_name(f"{path.name}.xmp"), tags, in_place)


def _write_sidecar(path: Path, tags: Tags, in_place: bool) -> str:
    """Write a sidecar file; in place, one that exists is merged with. Return TAGGED or the reason why not."""
    merges = in_place and os.path.lexists(path)
    try:
        earlier = path.read_bytes() if merges else xmp_packet.EMPTY_PACKET
        packet = xmp_packet.merge_tags(earlier, tags)
    except OSError:
        return "has a sidecar file that cannot be read"
    except xmp_packet.PacketError as error:
        return f"has a sidecar file with {error}"
    _replace_bytes(path, packet, keep_mode=merges)
    return TAGGED


def _replace_bytes(path: Path, data: bytes, keep_mode: bool) -> None:
    """Write a file by rename, under the permissions of the one that it replaces."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data)
        if keep_mode:
            temporary.chmod(path.stat().st_mode & 0o7777)


def _resolve_below(folder: Path, uri: str) -> Path:
    """Return a path below the folder, however the members of an archive are named."""
    names = [name for name in uri.split("/") if name not in ("", ".", "..")]
    return folder.joinpath(*names) if names else folder / "picture"
