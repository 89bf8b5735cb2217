"""The groups that the images of a batch come in: scenes, days, folders.

The source's own group column comes first. Else params.yaml: monitor.group decides: a regular expression over the
uri, as normalize.split.group; null: every image stands alone; or `auto`, which goes by the names:
- several folders: the images of a folder are a group, and within it the sequences FOLDER/TRACK_FRAME;
- one folder: each sequence TRACK_FRAME is a group, if there are several. One folder with one sequence, such as an
  inbox with IMG_0001.jpg ..., says nothing: its images stand alone.
Folders and sequences that are named like a class of the model sort images by content and are no scenes.

Images that look alike (near duplicates) belong to one group, whatever their names. Of images that stand alone by
their names, neighbours in the order of the names belong to one if the network sees them as closer to each other
than all but SCENE_QUANTILE of the pairs of the reference: names that only count put shots of a scene side by side.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from imageset.splits.near_duplicates import are_alike, group_near_duplicates
from imageset.splits.split_rule import match_uris
from lightning_modules.features.reference_sample import number_groups

if TYPE_CHECKING:
    from flows.monitoring.batch_sample import BatchSample
    from flows.prediction.image_stream import ImageStream
    from lightning_modules.bundle import Bundle
    from lightning_modules.features.reference_sample import ImageSample

AUTO = "auto"
FRAME = re.compile(r"(.*?)[-_. ]*\d+")  # TRACK_FRAME: the last number of a name counts frames
SCENE_QUANTILE = 0.05  # of unrelated neighbours so many are taken for one scene, which costs a little power
NUM_NEIGHBOURS = 3  # behind each image
# That cameras and programs write before a number that counts all pictures, not those of a scene.
COUNTER_NAMES = frozenset({"", "img", "dsc", "dscn", "dscf", "pxl", "p", "pict", "image", "photo", "picture"})


def read_groups(
    sample: BatchSample, images: ImageStream | None, rule: str | None, bundle: Bundle
) -> tuple[list[str | None], np.ndarray]:
    """Return the names of the groups of a sample's rows, and int (2,): unreadable groups and all groups.

    Args:
        sample: the sample.
        images: the images of the source; None if they are not at hand.
        rule: params.yaml: monitor.group.
        bundle: the model.
    """
    readable = [row["uri"] for row in sample.rows]
    uris = readable + sample.error_uris
    named = images.read_groups(set(uris)) if images is not None else {}
    names = pick_named(named, uris, name_groups(uris, rule, bundle.info.classes))
    of_readable, of_errors = names[: len(readable)], names[len(readable) :]
    num_readable = len(sample.ids) - sample.num_errors
    return of_readable, count_rejected(of_readable, of_errors, num_readable, sample.num_errors)


def name_groups(uris: Sequence[str], rule: str | None, classes: Collection[str]) -> list[str | None]:
    """Return the name of each image's group, or None where an image stands alone.

    Args:
        uris: of the images.
        rule: `auto`, a regular expression, or None.
        classes: names of the model's classes.
    """
    if rule is None:
        return [None] * len(uris)
    if rule != AUTO:
        return match_uris(rule, uris)
    folders = [_read_folder(uri, classes) for uri in uris]
    sequences = [(folder, _read_sequence(uri, classes)) for folder, uri in zip(folders, uris, strict=True)]
    counts = Counter(sequence for sequence in sequences if sequence[1] is not None)
    shared = {sequence for sequence, num in counts.items() if num > 1}
    if len(set(folders)) > 1:
        return [f"{folder}/{name}" if (folder, name) in shared else folder for folder, name in sequences]
    if len(shared) > 1:
        return [f"{folder}/{name}" if (folder, name) in shared else None for folder, name in sequences]
    return [None] * len(uris)


def _read_folder(uri: str, classes: Collection[str]) -> str:
    parts = uri.replace("\\", "/").split("/")[:-1]
    return "/".join(part for part in parts if part not in classes)


def _read_sequence(uri: str, classes: Collection[str]) -> str | None:
    stem = os.path.splitext(uri.replace("\\", "/").rpartition("/")[2])[0]
    match = FRAME.fullmatch(stem)
    if match is None or match[1].casefold() in COUNTER_NAMES or match[1] in classes:
        return None
    return match[1]


def merge_neighbours(
    numbers: np.ndarray,
    names: Sequence[str | None],
    uris: Sequence[str],
    features: np.ndarray,
    reference: ImageSample,
) -> np.ndarray:
    """Return the numbers of groups after images that stand alone by their names joined the scenes of neighbours.

    Args:
        numbers: int64 (n,): equal for images of a group.
        names: of the groups, as `name_groups` returns them.
        uris: of the images.
        features: float (n, d).
        reference: the model's validation images.
    """
    alone = [position for position, name in enumerate(names) if name is None]
    if reference.features is None or len(alone) < 2:
        return numbers
    limit = _find_scene_distance(reference)
    merged = numbers.copy()
    points = _scale_to_unit(features)
    ordered = sorted(alone, key=lambda position: _split_numbers(uris[position]))
    for gap in range(1, NUM_NEIGHBOURS + 1):
        for first, second in zip(ordered, ordered[gap:], strict=False):
            in_one_folder = uris[first].rpartition("/")[0] == uris[second].rpartition("/")[0]
            if in_one_folder and 1 - points[first] @ points[second] < limit:
                merged[merged == merged[second]] = merged[first]
    return merged


def _find_scene_distance(reference: ImageSample) -> float:
    """Return the cosine distance that SCENE_QUANTILE of the reference's pairs of different groups stay below."""
    assert reference.features is not None
    points, groups = _scale_to_unit(reference.features), reference.list_groups()
    is_pair = np.triu(groups[:, None] != groups, 1)
    return float(np.quantile(1 - (points @ points.T)[is_pair], SCENE_QUANTILE)) if is_pair.any() else 0.0


def _scale_to_unit(features: np.ndarray) -> np.ndarray:
    points = features.astype(np.float64)
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12))


def _split_numbers(uri: str) -> list[tuple[str, int]]:
    """Return a key that sorts "a10" behind "a9"."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", uri)]


def merge_near_duplicates(
    names: Sequence[str | None], images: Sequence[np.ndarray], max_bits: int | None
) -> np.ndarray:
    """Return int64 (n,): equal numbers for images of a group, and for near duplicates and all that share a group.

    Args:
        names: of the groups; None where an image stands alone.
        images: uint8 (H, W, C) each; none if the images are not at hand.
        max_bits: the hashes of near duplicates differ in at most so many bits; None: they are not looked for.
    """
    numbers = number_groups(names)
    if max_bits is None or not len(images):
        return numbers
    from imageset.decoding.phash import compute_phashes

    phashes = np.concatenate([compute_phashes(image[None].astype(np.float32)) for image in images])

    def confirm(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return are_alike(np.stack([images[i] for i in left]), np.stack([images[i] for i in right]))

    return group_near_duplicates(phashes, max_bits, confirm, numbers.astype(np.int32)).astype(np.int64)


def count_rejected(
    readable: Sequence[str | None], unreadable: Sequence[str | None], num_readable: int, num_unreadable: int
) -> np.ndarray:
    """Return int (2,): groups whose images cannot be read, and all groups; an image that stands alone is a group.

    A group counts by the share of its images that cannot be read; the sum is rounded down.

    Args:
        readable: names of the groups of a sample of the images that can be read.
        unreadable: likewise of those that cannot be read.
        num_readable: images that can be read.
        num_unreadable: images that cannot be read.
    """
    weights = [num / max(len(names), 1) for num, names in ((num_readable, readable), (num_unreadable, unreadable))]
    totals: dict[str, list[float]] = {}
    for position, (names, weight) in enumerate(zip((readable, unreadable), weights, strict=True)):
        for name in names:
            if name is not None:
                totals.setdefault(name, [0.0, 0.0])[position] += weight
    alone = [
        weight * list(names).count(None) for names, weight in zip((readable, unreadable), weights, strict=True)
    ]
    affected = alone[1] + sum(bad / (good + bad) for good, bad in totals.values())
    return np.array([int(affected + 1e-9), round(sum(alone)) + len(totals)])


def pick_named(
    groups: Mapping[str, str | None], uris: Sequence[str], names: Sequence[str | None]
) -> list[str | None]:
    """Return the groups that a source names, else those that are given.

    Args:
        groups: of the source, by uri.
        uris: of the images.
        names: of the images, if the source names none.
    """
    if not any(groups.get(uri) for uri in uris):
        return list(names)
    return [groups.get(uri) for uri in uris]
