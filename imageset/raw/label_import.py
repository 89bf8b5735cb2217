"""Import of labels that people gave: they go into the label log, and new images into the raw data.

`plan_label_import` reads and compares, and writes nothing; `apply_label_plan` writes. The log, the table of
records and source.json are replaced as one (imageset.raw.replacement), after the shards of new images: a process
that is killed leaves all of an import or nothing of it. The same labels again change nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imageset.class_names import find_similar_names, normalize_class_name
from imageset.exceptions import UserError
from imageset.labels import join_labels, parse_labels
from imageset.raw.damage import check_raw_files, digest_stored_files
from imageset.raw.ingestion import (
    open_buffer,
    remove_leftovers,
    store_bytes,
    write_records,
)
from imageset.raw.label_log import (
    LABEL_LOG_FILE,
    LabelEntry,
    fold_annotator,
    read_label_log,
    read_label_log_bytes,
)
from imageset.raw.records import RECORDS_FILE, iter_record_batches
from imageset.raw.replacement import finish_replacement, replace_files
from imageset.raw.shards import RawShardWriter
from imageset.raw.source_file import (
    find_source_identity,
    is_multi_label,
    read_first_shards,
    write_source_file,
)
from imageset.rejections import FORGOTTEN, REASONS, Rejected, escape_control_characters
from imageset.sources.columns import CELL_SEPARATORS
from imageset.sources.label_table import LabelRow
from imageset.utils.text import format_count
from imageset.utils.timestamps import format_utc_now

MAX_NAMED = 3  # images, classes or disputes that a message names


@dataclass(slots=True)
class LabelPlan:
    """The outcome of an import of labels, before it is written.

    Attributes:
        table: the table, in messages and in the log.
        entries: the lines for the label log.
        new_images: row by image_id of the images that are not in the dataset.
        num_labels: number of rows with a label of an image that is or gets into the dataset.
        num_relabelled: number of known images that get another label.
        num_confirmed: number of rows in which a person states the label that an image has.
        num_unlabelled: number of rows without a label.
        unknown: names of the images that the dataset does not have and that cannot be read, with the reason.
        new_classes: number of images of each class that the dataset does not have.
        disputes: who says what of the images of the table that are disputed afterwards, by the image's name.
        log_bytes: the label log that this was planned for.
    """

    table: str
    log_bytes: bytes = b""
    entries: list[LabelEntry] = field(default_factory=list)
    new_images: dict[str, LabelRow] = field(default_factory=dict)
    num_labels: int = 0
    num_relabelled: int = 0
    num_confirmed: int = 0
    num_unlabelled: int = 0
    unknown: dict[str, str] = field(default_factory=dict)
    new_classes: Counter[str] = field(default_factory=Counter)
    disputes: dict[str, str] = field(default_factory=dict)

    @property
    def num_unchanged(self) -> int:
        """The number of rows whose label is written nowhere, since the dataset has it already."""
        return self.num_labels - len(self.new_images) - self.num_relabelled - self.num_confirmed

    def describe(self) -> str:
        """Return one line about what the table holds."""
        facts = [
            format_count(len(self.new_images), "new picture") if self.new_images else "",
            f"{self.num_relabelled:,} relabelled" if self.num_relabelled else "",
            f"{self.num_confirmed:,} confirmed" if self.num_confirmed else "",
            f"{self.num_unchanged:,} unchanged" if self.num_unchanged else "",
        ]
        text = f"{self.table}: {format_count(self.num_labels, 'label')}"
        text += f": {', '.join(filter(None, facts))}" if any(facts) else ""
        return text + (
            f"; {format_count(self.num_unlabelled, 'row')} without a label" if self.num_unlabelled else ""
        )

    def list_warnings(self) -> list[str]:
        """Return a line about each thing that may not be as the person wanted."""
        warnings = []
        if self.new_classes:
            named = [
                f"'{escape_control_characters(name)}' ({num:,})" for name, num in sorted(self.new_classes.items())
            ]
            noun = "a new class" if len(named) == 1 else f"{len(named):,} new classes"
            warnings.append(f"{self.table}: {noun}, which the dataset did not have: {_join_some(named)}")
        if self.unknown:
            verb = "row names a picture" if len(self.unknown) == 1 else "rows name pictures"
            warnings.append(
                f"{self.table}: {len(self.unknown):,} {verb} that the project does not have: "
                f"{_join_some([f'{name}: {reason}' for name, reason in self.unknown.items()])}; add the pictures "
                "beside the table with their paths in a column `path`, or take out the rows"
            )
        if self.disputes:
            count = format_count(len(self.disputes), "picture is", "pictures are")
            warnings.append(
                f"{self.table}: {count} held out, since people disagree: "
                f"{_join_some([f'{name}: {text}' for name, text in self.disputes.items()])}; the same table with "
                "the right labels and --resolve decides"
            )
        return warnings


def plan_label_import(
    rows: Iterable[LabelRow],
    raw_dir: str | Path,
    table: str,
    annotator: str,
    *,
    resolves: bool = False,
    forgotten: Collection[str] = frozenset(),
) -> LabelPlan:
    """Compare labels with the dataset and its label log; nothing is written.

    Args:
        rows: the labels.
        raw_dir: the raw data.
        table: the table that they come from, in messages and in the log.
        annotator: the person who gave the labels of the rows that name nobody.
        resolves: whether these labels set aside what other people said of the same images.
        forgotten: SHA-256 of images that are left out.

    Raises:
        UserError: a picture has other bytes than its image_id says, a class looks like a misspelled one, a row has
            several labels in a dataset of one label a picture, one person gives a picture two labels, or none of
            the pictures is known.
    """
    raw_dir = Path(raw_dir)
    return _Planner(
        list(rows), raw_dir, LabelPlan(table, read_label_log_bytes(raw_dir)), annotator, resolves, forgotten
    ).plan()


def apply_label_plan(plan: LabelPlan, raw_dir: str | Path) -> bool:
    """Write what was planned; return whether anything was.

    Raises:
        UserError: a picture has changed since, or another import has written to the label log.
    """
    raw_dir = Path(raw_dir)
    if not plan.entries:
        return False
    log_bytes = read_label_log_bytes(raw_dir)
    if log_bytes != plan.log_bytes:
        raise UserError(f"{plan.table}: other labels were ingested at the same time; ingest this table again")
    check_raw_files(raw_dir)
    with open_buffer(raw_dir, raw_dir / RECORDS_FILE, is_kept=lambda row: True) as buffer:
        remove_leftovers(raw_dir, buffer.shards)
        first_shard = max(buffer.shards, default=-1) + 1
        with RawShardWriter(raw_dir, first=first_shard) as writer:
            for image_id, row in plan.new_images.items():
                stored = store_bytes(_read_image(row, plan.table, image_id), row.uri, buffer, writer)
                buffer.keep_row(
                    {"uri": row.uri or image_id, "group": row.group, "split": row.split, "time": row.time}
                    | {"absent": False, "label_table": plan.table}
                    | stored
                )
        with replace_files(raw_dir) as staged:
            lines = "".join(entry.to_line() for entry in plan.entries)
            (staged / LABEL_LOG_FILE).write_bytes(log_bytes + lines.encode())
            if plan.new_images:
                write_records(buffer, staged / RECORDS_FILE)
            identity = find_source_identity(raw_dir)
            assert identity is not None
            digests = digest_stored_files(raw_dir, buffer.shards, [RECORDS_FILE]) | writer.digests
            new_shards = [first_shard] if writer.digests else []
            write_source_file(staged, identity, [*read_first_shards(raw_dir), *new_shards], digests)
    return True


def import_labels(
    rows: Iterable[LabelRow],
    raw_dir: str | Path,
    table: str,
    annotator: str,
    *,
    resolves: bool = False,
    forgotten: Collection[str] = frozenset(),
) -> LabelPlan:
    """Plan and apply an import of labels; the arguments and errors are those of `plan_label_import`."""
    finish_replacement(Path(raw_dir))
    plan = plan_label_import(rows, raw_dir, table, annotator, resolves=resolves, forgotten=forgotten)
    apply_label_plan(plan, raw_dir)
    return plan


class _Planner:
    """The state of one comparison of labels with a dataset."""

    def __init__(
        self,
        rows: list[LabelRow],
        raw_dir: Path,
        plan: LabelPlan,
        annotator: str,
        resolves: bool,
        forgotten: Collection[str],
    ) -> None:
        self._plan, self._annotator, self._resolves, self._forgotten = plan, annotator, resolves, forgotten
        self._multi_label = is_multi_label(raw_dir)
        self._log = read_label_log(raw_dir)
        self._time = format_utc_now()
        self._hashed: dict[int, str] = {}  # image_id by the position of a row that names none
        self._rows = sorted(rows, key=lambda row: row.labeled_at or datetime.min)  # the last label counts
        self._labels = self._choose_labels()
        self._hash_unnamed()
        self._known, self._classes = self._read_dataset(raw_dir)
        self._given: dict[tuple[str, str], tuple[str, datetime | None]] = {}  # by image and person, of this table

    def plan(self) -> LabelPlan:
        """Return the plan."""
        self._check_names()
        for position, row in enumerate(self._rows):
            if self._labels[position] is None:
                self._plan.num_unlabelled += 1
            else:
                self._add_row(row, row.image_id or self._hashed.get(position), self._labels[position] or "")
        if self._plan.unknown and not self._plan.num_labels:
            raise UserError(self._plan.list_warnings()[-1])
        self._count_new_classes()
        self._find_disputes()
        return self._plan

    def _choose_labels(self) -> list[str | None]:
        """Return the one string of the labels of each row; None without a label."""
        return [self._join_labels(row) for row in self._rows]

    def _join_labels(self, row: LabelRow) -> str | None:
        if row.labels is None:
            return None
        labels = [name for label in row.labels if (name := normalize_class_name(label))]
        if self._multi_label:
            return join_labels(labels)
        if len(set(labels)) > 1:
            raise self._build_several_error(row, labels)
        return labels[0] if labels else None

    def _build_several_error(self, row: LabelRow, labels: list[str]) -> UserError:
        return UserError(
            f"{self._plan.table}: {row.name} has several labels, {' and '.join(map(repr, labels))}, but the "
            "pictures of this project have one label each; keep one of them"
        )

    def _hash_unnamed(self) -> None:
        """Compute the image_id of the rows that name only a file."""
        for position, row in enumerate(self._rows):
            if row.image_id is None and row.read is not None and self._labels[position] is not None:
                try:
                    self._hashed[position] = hashlib.sha256(row.read()).hexdigest()
                except (Rejected, FileNotFoundError) as error:
                    self._plan.unknown[row.name] = _describe(error)

    def _read_dataset(self, raw_dir: Path) -> tuple[dict[str, str | None], set[str]]:
        """Return the label of each image of the rows that the dataset has, and all its classes."""
        ids = {row.image_id for row in self._rows if row.image_id} | set(self._hashed.values())
        by_people = self._log.collect_labels()
        wanted, decided = (pa.array(sorted(names), pa.string()) for names in (ids, by_people))
        known: dict[str, str | None] = {}
        labels: set[str | None] = set(by_people.values())
        for batch in iter_record_batches(raw_dir):
            here = batch.filter(pc.invert(batch["absent"]))  # type: ignore[attr-defined]
            is_decided = pc.is_in(here["image_id"], value_set=decided)  # type: ignore[attr-defined]
            labels.update(here["label"].filter(pc.invert(is_decided)).unique().to_pylist())  # type: ignore[attr-defined]
            is_wanted = pc.is_in(here["image_id"], value_set=wanted)  # type: ignore[attr-defined]
            for row in here.select(["image_id", "label"]).filter(is_wanted).to_pylist():
                image_id, label = row["image_id"], by_people.get(row["image_id"], row["label"])
                # Two labels of the same bytes in the source are none: the picture is refused for them.
                known[image_id] = label if known.get(image_id, label) == label else None
        given = labels - {None}
        return known, {name for label in given for name in self._split(label or "")}

    def _split(self, label: str) -> list[str]:
        return parse_labels(label) if self._multi_label else [label]

    def _check_names(self) -> None:
        """Raise UserError for labels that are nearly those of the dataset, or several in one cell."""
        given = {name for label in self._labels if label is not None for name in self._split(label)}
        new = given - self._classes
        for group in find_similar_names(self._classes | given):
            unknown = [name for name in group if name in new]
            if unknown:
                others = [name for name in group if name != unknown[0]]
                kind = "class" if others[0] in self._classes else "label"
                advice = f"write '{others[0]}'" if others[0] in self._classes else "write one of them in all rows"
                raise UserError(
                    escape_control_characters(
                        f"{self._plan.table}: the label '{unknown[0]}' differs from the {kind} '{others[0]}' by "
                        f"case, blanks or number format only; {advice}"
                    )
                )
        if not self._multi_label:
            self._check_single(new)

    def _check_single(self, new: set[str]) -> None:
        """Raise UserError for a cell of several classes."""
        for row, label in zip(self._rows, self._labels, strict=True):
            for separator in CELL_SEPARATORS if label in new else ():
                parts = [part.strip() for part in (label or "").split(separator)]
                if len(parts) > 1 and set(parts) <= self._classes:
                    raise self._build_several_error(row, parts)

    def _add_row(self, row: LabelRow, image_id: str | None, label: str) -> None:
        """Add one label to the plan."""
        if image_id is None:
            self._plan.unknown.setdefault(row.name, "no image_id and no path")
            return
        if image_id in self._forgotten:
            self._plan.unknown[row.name] = f"{FORGOTTEN}: {REASONS[FORGOTTEN]}"
            return
        is_new = image_id not in self._known
        if is_new:
            try:
                _read_image(row, self._plan.table, image_id)
            except (Rejected, FileNotFoundError) as error:
                self._plan.unknown[row.name] = _describe(error)
                return
            self._known[image_id] = None
            self._plan.new_images[image_id] = row
        self._plan.num_labels += 1
        annotator = row.annotator or self._annotator
        self._check_contradiction(row, image_id, annotator, label)
        outcome = "new" if is_new else self._compare(row, image_id, annotator, label)
        self._plan.num_relabelled += outcome == "relabelled"
        self._plan.num_confirmed += outcome == "confirmed"
        if outcome != "unchanged":
            self._add_entry(row, image_id, annotator, label)

    def _check_contradiction(self, row: LabelRow, image_id: str, annotator: str, label: str) -> None:
        key = image_id, "" if self._resolves else fold_annotator(annotator)  # a decision is that of nobody else
        before, time = self._given.get(key, (label, None))
        if before != label and (time is None or time == row.labeled_at):
            raise UserError(
                f"{self._plan.table}: {row.name}: the same picture is labelled '{before}' and '{label}' by "
                f"{annotator}; keep one of the rows"
            )
        self._given[key] = label, row.labeled_at

    def _compare(self, row: LabelRow, image_id: str, annotator: str, label: str) -> str:
        """Return what a label of a known image is: relabelled, confirmed or unchanged."""
        given = self._log.find_image(image_id)
        is_disputed = given is not None and given.find_label() is None
        own = given.by_annotator.get(fold_annotator(annotator)) if given else None
        if is_disputed:
            return "unchanged" if own and own[1] == label and not self._resolves else "relabelled"
        current = self._known[image_id]
        if label != current:
            return "relabelled"
        return "confirmed" if row.is_statement and own is None else "unchanged"

    def _add_entry(self, row: LabelRow, image_id: str, annotator: str, label: str) -> None:
        entry = LabelEntry(
            time=self._time,
            image_id=image_id,
            label=label,
            previous=self._known[image_id],
            annotator=annotator,
            table=self._plan.table,
            labeled_at=row.labeled_at.replace(tzinfo=UTC).isoformat() if row.labeled_at else None,
            guess=row.guess,
            probability=row.probability,
            model=row.model,
            resolves=self._resolves,
        )
        self._plan.entries.append(entry)
        self._log.add(entry)
        self._known[image_id] = label

    def _count_new_classes(self) -> None:
        for image_id in {entry.image_id for entry in self._plan.entries}:
            given = self._log.find_image(image_id)
            names = self._split((given and given.find_label()) or "")  # none while it is disputed
            self._plan.new_classes.update(name for name in names if name and name not in self._classes)

    def _find_disputes(self) -> None:
        for position, row in enumerate(self._rows):
            image_id = row.image_id or self._hashed.get(position)
            given = self._log.find_image(image_id) if image_id else None
            if given is not None and given.find_label() is None:
                self._plan.disputes[row.uri or row.name] = given.describe_dispute()


def _read_image(row: LabelRow, table: str, image_id: str) -> bytes:
    """Read the bytes of a row's image.

    Raises:
        Rejected, FileNotFoundError: there are none.
        UserError: they are others than the image_id says.
    """
    if row.read is None:
        raise Rejected("unreadable", "the row names no file")
    data = row.read()
    actual = hashlib.sha256(data).hexdigest()
    if actual != image_id:
        raise UserError(
            f"{table}: {row.name}: the file has other bytes (image_id {actual[:12]}...) than the row says "
            f"({image_id[:12]}...); put the picture back, or correct the row"
        )
    return data


def _describe(error: Exception) -> str:
    return error.detail if isinstance(error, Rejected) else "no such file"


def _join_some(texts: list[str]) -> str:
    shown = ", ".join(escape_control_characters(text) for text in texts[:MAX_NAMED])
    return shown + (f" and {len(texts) - MAX_NAMED:,} more" if len(texts) > MAX_NAMED else "")
