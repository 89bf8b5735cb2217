"""What one version of a model says of pictures, part by part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.prediction.cache import CacheShard, ImageRef, PredictionCache, Row, shard_stream
from flows.project.paths import NORMALIZED
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.labels import parse_labels

if TYPE_CHECKING:
    import numpy as np

    from flows.prediction.cache import PredictionCache
    from imageset.executors.dask_cluster import DaskExecutor
    from imageset.store.reader import StoreSplit
    from imageset.utils.progress import Progress
    from lightning_modules.bundle import Bundle
    from lightning_modules.scoring import Engine


CACHE_FORMAT = 1  # of a part's rows and of how they come about
ImageKey = tuple[str, str]  # (part, image_id)


class Predictor:
    """A version of a model on the engine that runs it.

    Args:
        params: the section `predict` of params.yaml.
        seen: what was seen of the engine when it was chosen (lightning_modules.inference.engine_selection).
        workers: processes that decode; None: one a processor.
        cluster: whose workers decode and run the network in our place.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        version: Version,
        params: Mapping[str, Any],
        seen: str = "",
        workers: int | None = None,
        cluster: DaskExecutor | None = None,
    ) -> None:
        self.cluster = cluster
        self.seen = seen
        self.bundle, self.engine, self.version, self.workers = bundle, engine, version, workers
        self.batch_size, self.top_k = int(params["batch_size"]), int(params["top_k"])
        self.abstain_below: float | None = bundle.info.abstain_below
        self.num_cached = 0

    def open_cache(self, folder: Path) -> PredictionCache:
        """The parts of this version below `folder`; others where anything differs that may change an answer."""
        from imageset.decoding.decoder import DECODER_VERSION
        from lightning_modules.inference.availability import list_package_versions

        said = {
            "format": CACHE_FORMAT, "bundle": [self.bundle.digest, asdict(self.bundle.info)],
            "model": [self.version.name, self.version.number], "decoder": DECODER_VERSION,
            "engine": [self.engine.name, self.engine.precision, self.engine.batch_size or self.batch_size],
            "versions": list_package_versions(self.engine.name, self.engine.precision), "top_k": self.top_k,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        place = folder / f"{self.version.name}-{self.version.number}-{key[:8]}"
        return PredictionCache(place, key, multi_label=self.bundle.info.multi_label)

    def to_metadata(self) -> dict[str, str]:
        """What is said of a table as a whole, in its metadata."""
        return {
            "model": str(self.version), "bundle": self.bundle.digest,
            "engine": self.engine.name, "precision": self.engine.precision, "engine_seen": self.seen,
        }  # fmt: skip

    def predict(
        self, pictures: Iterable[tuple[ImageRef, bytes]], parts: PredictionCache, progress: Progress
    ) -> list[str]:
        """Write every part that is not there yet; returns the names of all, in order."""
        from lightning_modules.inference.stream import score_stream

        names: list[str] = []
        waiting: dict[str, CacheShard] = {}

        def unanswered() -> Iterator[tuple[ImageKey, bytes]]:
            for part, files in shard_stream(pictures, parts.key):
                names.append(part.name)
                if parts.shard_path(part.name).is_file() or part.name in waiting:
                    self.num_cached += len(part.images)
                    progress.advance(len(part.images))
                    continue
                waiting[part.name] = part
                yield from self._iter_pending(part, files, parts, progress)
                if part.is_complete:
                    parts.write_shard(waiting.pop(part.name))

        for scored in score_stream(
            self.bundle,
            unanswered(),
            batch_size=self.batch_size,
            num_workers=self.workers,
            engine=self.engine,
            dask_cluster=self.cluster,
        ):
            name, image_id = scored.key
            error = None if scored.probabilities is not None else f"{scored.reason}: {scored.detail}"
            progress.advance(self._fill_rows(waiting[name], image_id, self._to_answer(scored.probabilities, error)))
            if waiting[name].is_complete:
                parts.write_shard(waiting.pop(name))
        assert not waiting
        return names

    def _iter_pending(
        self, part: CacheShard, files: list[bytes], parts: PredictionCache, progress: Progress
    ) -> Iterator[tuple[ImageKey, bytes]]:
        """What a part needs from the network; the rest of its rows is filled in."""
        asked: set[str] = set()
        for number, (picture, data) in enumerate(zip(part.images, files, strict=True)):
            if picture.image_id is None:
                part.rows[number] = self._to_row(picture, self._to_answer(None, picture.error))
            elif earlier := parts.find_answer(picture.image_id):
                part.rows[number] = self._to_row(picture, earlier)
                self.num_cached += 1
            elif picture.image_id not in asked:
                asked.add(picture.image_id)
                yield (part.name, picture.image_id), data
                continue
            else:
                continue
            progress.advance()

    def _fill_rows(self, part: CacheShard, image_id: str, answer: Row) -> int:
        """Write an answer into the rows of all pictures of these bytes; returns how many they are."""
        numbers = [n for n, picture in enumerate(part.images) if picture.image_id == image_id]
        for number in numbers:
            part.rows[number] = self._to_row(part.images[number], answer)
        return len(numbers)

    def _to_answer(self, probabilities: np.ndarray | None, error: str | None) -> Row:
        """The columns ANSWER: what is said, nothing where the model is not sure enough, or an error. In top_k
        stand the best classes, and of several labels a picture all that are said."""
        if probabilities is None:
            return {"label": None, "probability": None, "top_k": None, "status": "error", "error": error}
        info = self.bundle.info
        label, probability = info.to_prediction(probabilities)
        said = set(parse_labels(label)) if info.multi_label else {label}
        best = [(info.classes[i], float(probabilities[i])) for i in (-probabilities).argsort(kind="stable")]
        top = [
            {"label": name, "probability": p}
            for place, (name, p) in enumerate(best)
            if place < self.top_k or name in said
        ]
        answer: Row = {"label": label, "probability": probability, "top_k": top, "status": "ok", "error": None}
        if self.abstain_below is not None and probability < self.abstain_below:
            answer |= {"label": None, "status": "abstained"}
        return answer

    def _to_row(self, picture: ImageRef, answer: Row) -> Row:
        return {
            "uri": picture.uri, "image_id": picture.image_id,
            "model_name": self.version.name, "model_version": self.version.number,
            "dataset_fingerprint": self.bundle.info.dataset["fingerprint"], **answer,
        }  # fmt: skip


def open_validation_split(bundle: Bundle, project: Path) -> StoreSplit | None:
    """The validation split of the data that a bundle was trained on, if data/normalized still holds that."""
    from imageset.store.reader import ImageStore

    try:
        store = ImageStore.open(project / NORMALIZED)
    except UserError:
        return None
    split = store.split("val")
    same = store.fingerprint == bundle.info.dataset["fingerprint"] and store.classes == bundle.info.classes
    return split if same and len(split) else None
