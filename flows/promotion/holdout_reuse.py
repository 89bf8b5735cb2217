"""Reuse of the test split: how many decisions have used each test picture, counted in MLflow's registry.

Each decision on the same test pictures is one more chance to promote by luck, so its error probability shrinks
with the number of earlier ones (see comparison/gain/alpha_spending.py). The counts belong to the pictures:
tags of the registered model, `convoy.looks` and `convoy.looks.GENERATION.PART`, hold a hash of each picture with
its counts, of the MAX_KEPT pictures with the smallest hashes. With more pictures that is a sample of them, for
which the counts are exact. A picture counts as used if one of its group was. See docs/decisions/0024.

Sources: C. Dwork et al., "The reusable holdout", 2015; E. Cohen, H. Kaplan, "Summarizing data using bottom-k
sketches", 2007.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry, registry_lock
from imageset.exceptions import UserError
from lightning_modules.comparison.gain.alpha_spending import compute_tail

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOOKS_TAG = "convoy.looks"
MAX_KEPT = 4000  # pictures; about 17,000 characters of tags, which come with each request for the model
MAX_PART_CHARS = 4900  # of a tag's value, as of registry_records
NUM_QUESTIONS = 50  # the last ones, which are no new looks when they are asked again
_HASH_BYTES = 3
_MAX_COUNT = 65_535


@dataclass(frozen=True)
class HoldoutLook:
    """One decision's look at the test pictures.

    Attributes:
        num_earlier: decisions that had used the test pictures before; of pictures that differ in it, the most.
        num_spending: likewise, of the decisions that spent error probability on them.
        tail: the error probability that this decision may spend.
        is_unseen: bool (N,), whether no decision has used a picture, or one of its group, before; False if that
            is not known.
    """

    num_earlier: int
    num_spending: int
    tail: float
    is_unseen: np.ndarray


@dataclass(frozen=True)
class PictureCounts:
    """How many decisions have used each picture.

    Attributes:
        hashes: int64 (M,), ascending.
        looks: int64 (M,), decisions that used the picture.
        spent: int64 (M,), those that spent error probability; one by hand spends none.
        questions: the last ones with the error probability of each.
        generation: of the tags that hold this.
    """

    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    looks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    spent: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    questions: Mapping[str, float] = field(default_factory=dict)
    generation: int = 0

    @property
    def largest_known_hash(self) -> int:
        """The counts of pictures with a larger hash are not known."""
        return int(self.hashes[-1]) if len(self.hashes) >= MAX_KEPT else 256**_HASH_BYTES

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return looks and spent of pictures, int64 (N,) each; 0 for those that are not kept."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), np.int64)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        is_kept = self.hashes[places] == hashes
        return np.where(is_kept, self.looks[places], 0), np.where(is_kept, self.spent[places], 0)


@dataclass(frozen=True)
class HoldoutPictures:
    """The pictures of a test split.

    Attributes:
        image_ids: N hexadecimal ids.
        groups: int (N,), equal for pictures that belong together.
    """

    image_ids: Sequence[str]
    groups: np.ndarray


def record_look(
    client: MlflowClient,
    project: Project,
    model: str,
    question: str,
    pictures: HoldoutPictures,
    total: float,
    by_hand: bool,
) -> HoldoutLook:
    """Count a decision's look at the test pictures before it is made, and return what it may spend.

    A question that was asked before is no new look: it gets the same error probability again.

    Args:
        client: of the project's MLflow.
        project: the project's folder.
        model: registered name.
        question: candidate, champion, data and rules as text.
        pictures: the test pictures.
        total: the error probability of all decisions on the pictures together.
        by_hand: whether a person has decided already: such a look spends nothing.

    Raises:
        UserError: the counts in MLflow are damaged.
    """
    key = hashlib.sha256(f"{question} {by_hand}".encode()).hexdigest()[:12]
    with alias_updates.alias_lock(project), registry_lock.registry_lock(client, model):
        counts = read_counts(client, project, model, pictures)
        look = measure_look(counts, pictures, total)
        if key in counts.questions:
            return _exclude_itself(look, counts.questions[key], by_hand)
        questions = [*counts.questions.items(), (key, look.tail)][-NUM_QUESTIONS:]
        counted = _count_look(replace(counts, questions=dict(questions)), pictures, by_hand)
        _write_counts(client, model, counted)
    return look


def _exclude_itself(look: HoldoutLook, tail: float, by_hand: bool) -> HoldoutLook:
    """Return the look of a question that was counted before, as it was then."""
    num_spending = max(0, look.num_spending - (not by_hand))
    return replace(look, num_earlier=max(0, look.num_earlier - 1), num_spending=num_spending, tail=tail)


def read_counts(client: MlflowClient, project: Project, model: str, pictures: HoldoutPictures) -> PictureCounts:
    """Read the counts of a registered model.

    Where MLflow has none, as of an earlier Convoy or in a registry that was restored, all of the split are
    taken to be used by every comparison in the ledger.
    """
    counts = parse_counts(model, model_registry.read_model_tags(client, model))
    if counts is not None:
        return counts
    num_earlier = sum(
        entry["event"] == ledger.DECISION and entry["model"] == model and entry.get("champion") is not None
        for entry in ledger.read_ledger(project)
    )
    counts = PictureCounts()
    if not num_earlier:
        return counts
    used = _count_look(counts, pictures, by_hand=False)
    return replace(used, looks=used.looks * num_earlier, spent=used.spent * num_earlier)


def measure_look(counts: PictureCounts, pictures: HoldoutPictures, total: float) -> HoldoutLook:
    """Return what the next decision on a test split may spend, without counting it."""
    hashes = hash_pictures(pictures.image_ids)
    is_known = hashes <= counts.largest_known_hash
    looks, spent = (_spread_over_groups(values, pictures.groups) for values in counts.find(hashes))
    if not is_known.any():  # far more pictures were used than there are now
        num_looks, num_spent = int(counts.looks.max()), int(counts.spent.max())
        tail = compute_tail(total, {num_spent: 1})
        return HoldoutLook(num_looks, num_spent, tail, is_known)
    values, nums = np.unique(spent[is_known], return_counts=True)
    tail = compute_tail(total, dict(zip(values.tolist(), nums.tolist(), strict=True)))
    return HoldoutLook(int(looks[is_known].max()), int(values.max()), tail, is_known & (looks == 0))


def hash_pictures(image_ids: Sequence[str]) -> np.ndarray:
    """Return a hash of each picture, int64 (N,); the id cannot be found from it."""
    digests = (hashlib.sha256(f"convoy test picture {image_id}".encode()).digest() for image_id in image_ids)
    return np.array([int.from_bytes(digest[:_HASH_BYTES], "big") for digest in digests], np.int64)


def _spread_over_groups(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the largest value of each picture's group, int64 (N,)."""
    clusters = np.unique(groups, return_inverse=True)[1].ravel()
    largest = np.zeros(int(clusters.max()) + 1, np.int64)
    np.maximum.at(largest, clusters, values)
    return largest[clusters]


def _count_look(counts: PictureCounts, pictures: HoldoutPictures, by_hand: bool) -> PictureCounts:
    """Return the counts after one more look at a test pictures."""
    hashes = hash_pictures(pictures.image_ids)
    looks, spent = (_spread_over_groups(values, pictures.groups) for values in counts.find(hashes))
    is_known = hashes <= counts.largest_known_hash
    merged = np.concatenate([hashes[is_known], counts.hashes])
    merged_looks = np.concatenate([looks[is_known] + 1, counts.looks])
    merged_spent = np.concatenate([spent[is_known] + (not by_hand), counts.spent])
    kept, places = np.unique(merged, return_index=True)  # of equal hashes the first: that of this look
    places = places[:MAX_KEPT]
    return replace(counts, hashes=kept[:MAX_KEPT], looks=merged_looks[places], spent=merged_spent[places])


# ---- the tags ---------------------------------------------------------------------------------------


def parse_counts(model: str, tags: Mapping[str, str]) -> PictureCounts | None:
    """Read the counts from the tags of a registered model; None if there are none.

    Raises:
        UserError: they are damaged.
    """
    if LOOKS_TAG not in tags:
        return None
    try:
        head = json.loads(tags[LOOKS_TAG])
        text = "".join(tags[_name_part(head["generation"], part)] for part in range(head["parts"]))
        if hashlib.sha256(text.encode()).hexdigest() != head["sha256"]:
            raise ValueError("another SHA-256")
        return PictureCounts(*_decode(text), dict(head["questions"]), int(head["generation"]))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise UserError(
            f"the registered model {model}: its tags {LOOKS_TAG}, which count the decisions on the test pictures, "
            f"are damaged ({error}); delete the tag {LOOKS_TAG} in MLflow, and they are counted from the ledger"
        ) from error


def _write_counts(client: MlflowClient, model: str, counts: PictureCounts) -> None:
    """Write the parts of a new generation, then the tag that names them, and delete the generation before."""
    text, generation = _encode(counts), counts.generation + 1
    parts = [text[start : start + MAX_PART_CHARS] for start in range(0, len(text), MAX_PART_CHARS)]
    for part, value in enumerate(parts):
        model_registry.set_model_tag(client, model, _name_part(generation, part), value)
    head: dict[str, Any] = {
        "generation": generation, "parts": len(parts), "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "questions": counts.questions,
    }  # fmt: skip
    model_registry.set_model_tag(client, model, LOOKS_TAG, json.dumps(head))
    current = {_name_part(generation, part) for part in range(len(parts))}
    for key in model_registry.read_model_tags(client, model):
        if key.startswith(f"{LOOKS_TAG}.") and key not in current:
            model_registry.delete_model_tag(client, model, key)


def _name_part(generation: int, part: int) -> str:
    return f"{LOOKS_TAG}.{generation}.{part:02d}"


def _encode(counts: PictureCounts) -> str:
    """Return hashes and counts as text; pictures of equal counts stand together, so that the counts compress."""
    order = np.lexsort((counts.hashes, counts.spent, counts.looks))
    columns = [np.minimum(values[order], _MAX_COUNT) for values in (counts.looks, counts.spent)]
    hashes = counts.hashes[order].astype(">u4").view(np.uint8).reshape(-1, 4)[:, 4 - _HASH_BYTES :]
    data = b"".join([*(column.astype(">u2").tobytes() for column in columns), hashes.tobytes()])
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _decode(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = zlib.decompress(base64.b64decode(text, validate=True))
    num = len(data) // (4 + _HASH_BYTES)
    looks, spent = np.frombuffer(data[: 4 * num], ">u2").astype(np.int64).reshape(2, num)
    digits = np.frombuffer(data[4 * num :], np.uint8).astype(np.int64).reshape(num, _HASH_BYTES)
    hashes = digits @ (256 ** np.arange(_HASH_BYTES - 1, -1, -1))
    order = np.argsort(hashes)
    return hashes[order], looks[order], spent[order]
