"""The images of a project's dataset that have a label, which nobody needs to be asked about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from imageset.raw.label_log import read_label_log
from imageset.raw.records import iter_record_batches
from imageset.raw.source_file import find_source_identity
from imageset.utils.arrow import to_id_words


class LabeledImages:
    """A set of image_ids, in 8 bytes each: two images that share 64 bits of their SHA-256 are not to be expected.

    Args:
        words: uint64 (n,), the first 64 bits of each image_id.
    """

    def __init__(self, words: Sequence[int] | np.ndarray = ()) -> None:
        self._words = np.unique(np.asarray(words, np.uint64))

    @classmethod
    def read(cls, raw_dir: Path, forgotten: Iterable[str] = ()) -> LabeledImages:
        """Return the images that the source or people have labeled; none if nothing was ingested.

        Args:
            raw_dir: the raw data.
            forgotten: SHA-256 of images that nobody is to be asked about either.

        Raises:
            UserError: the records or the label log are missing or damaged.
        """
        words = [np.array([int(image_id[:16], 16) for image_id in forgotten], np.uint64)]
        if find_source_identity(raw_dir) is not None:
            by_people = (int(image_id[:16], 16) for image_id, _ in read_label_log(raw_dir).iter_images())
            words.append(np.fromiter(by_people, np.uint64))
            for batch in iter_record_batches(raw_dir):
                masks = (batch["label"].is_valid(), batch["image_id"].is_valid(), batch["absent"].fill_null(False))
                has_label, is_readable, is_absent = (mask.to_numpy(zero_copy_only=False) for mask in masks)
                ids = batch["image_id"].filter(pa.array(has_label & is_readable & ~is_absent))
                words.append(to_id_words(pa.chunked_array([ids])))
        return cls(np.concatenate(words))

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, image_id: object) -> bool:
        word = np.uint64(int(str(image_id)[:16], 16))
        at = int(np.searchsorted(self._words, word))
        return at < len(self._words) and self._words[at] == word
