"""Predict a stream of images with one model version, shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.prediction.cache import CacheShard, ImageRef, PredictionCache, Row, shard_stream
from flows.project.paths import NORMALIZED
from flows.project.project import Project
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.labels import parse_labels

if TYPE_CHECKING:
    import numpy as np

    from imageset.executors.dask_cluster import DaskExecutor
    from imageset.store.reader import ImageStore, StoreSplit
    from imageset.utils.progress import Progress
    from lightning_modules.bundle import Bundle
    from lightning_modules.scoring import Engine


CACHE_FORMAT = 1  # raise it when the rows of a shard, or the way they are computed, change
ImageKey = tuple[str, str]  # (shard name, image_id)


class Predictor:
    """A model version and the engine that runs it.

    Args:
        bundle: the model.
        engine: the engine that runs the network.
        version: the registered version that the bundle belongs to.
        params: the section `predict` of params.yaml.
        engine_note: how the engine compared with fp32 when it was selected
            (lightning_modules.inference.engine_selection).
        num_workers: processes that decode; None for one per processor.
        cluster: a cluster whose workers decode and run the network in place of this machine.

    Attributes:
        num_cached: images whose rows came from the cache.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        version: Version,
        params: Mapping[str, Any],
        engine_note: str = "",
        num_workers: int | None = None,
        cluster: DaskExecutor | None = None,
    ) -> None:
        self.cluster = cluster
        self.engine_note = engine_note
        self.bundle, self.engine, self.version, self.num_workers = bundle, engine, version, num_workers
        self.batch_size, self.top_k = int(params["batch_size"]), int(params["top_k"])
        self.abstain_below: float | None = bundle.info.abstain_below
        self.num_cached = 0

    def open_cache(self, folder: Path) -> PredictionCache:
        """Return the cache below `folder`, keyed by everything that may change a prediction."""
        from imageset.decoding.decoder import DECODER_VERSION
        from lightning_modules.inference.availability import list_package_versions

        key_parts = {
            "format": CACHE_FORMAT, "bundle": [self.bundle.digest, asdict(self.bundle.info)],
            "model": [self.version.name, self.version.number], "decoder": DECODER_VERSION,
            "engine": [self.engine.name, self.engine.precision, self.engine.batch_size or self.batch_size],
            "versions": list_package_versions(self.engine.name, self.engine.precision), "top_k": self.top_k,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(key_parts, sort_keys=True).encode()).hexdigest()
        path = folder / f"{self.version.name}-{self.version.number}-{key[:8]}"
        return PredictionCache(path, key, multi_label=self.bundle.info.multi_label)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a table as a whole."""
        return {
            "model": str(self.version), "bundle": self.bundle.digest,
            "engine": self.engine.name, "precision": self.engine.precision, "engine_seen": self.engine_note,
        }  # fmt: skip

    def predict(
        self, images: Iterable[tuple[ImageRef, bytes]], cache: PredictionCache, progress: Progress
    ) -> list[str]:
        """Predict the images and write every shard that is missing from the cache.

        Returns:
            The names of all shards, in the order of the images.
        """
        from lightning_modules.inference.stream import score_stream

        names: list[str] = []
        unfinished: dict[str, CacheShard] = {}

        def iter_pending() -> Iterator[tuple[ImageKey, bytes]]:
            for shard, files in shard_stream(images, cache.key):
                names.append(shard.name)
                if shard.name in unfinished or cache.has_shard(shard.name):
                    self.num_cached += len(shard.images)
                    progress.advance(len(shard.images))
                    continue
                unfinished[shard.name] = shard
                yield from self._iter_pending(shard, files, cache, progress)
                if shard.is_complete:
                    cache.write_shard(unfinished.pop(shard.name))

        for scored in score_stream(
            self.bundle,
            iter_pending(),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            engine=self.engine,
            dask_cluster=self.cluster,
        ):
            name, image_id = scored.key
            error = None if scored.probabilities is not None else f"{scored.reason}: {scored.detail}"
            answer = self._to_answer(scored.probabilities, error)
            progress.advance(self._fill_rows(unfinished[name], image_id, answer))
            if unfinished[name].is_complete:
                cache.write_shard(unfinished.pop(name))
        assert not unfinished
        return names

    def _iter_pending(
        self, shard: CacheShard, files: list[bytes], cache: PredictionCache, progress: Progress
    ) -> Iterator[tuple[ImageKey, bytes]]:
        """Yield the images of a shard that the network has to predict; fill in the rows of all others."""
        requested: set[str] = set()
        for number, (image, data) in enumerate(zip(shard.images, files, strict=True)):
            if image.image_id is None:
                shard.rows[number] = self._to_row(image, self._to_answer(None, image.error))
            elif cached := cache.find_answer(image.image_id):
                shard.rows[number] = self._to_row(image, cached)
                self.num_cached += 1
            elif image.image_id not in requested:
                requested.add(image.image_id)
                yield (shard.name, image.image_id), data
                continue
            else:
                continue
            progress.advance()

    def _fill_rows(self, shard: CacheShard, image_id: str, answer: Row) -> int:
        """Write an answer into the rows of all images with these bytes; return the number of rows."""
        numbers = [number for number, image in enumerate(shard.images) if image.image_id == image_id]
        for number in numbers:
            shard.rows[number] = self._to_row(shard.images[number], answer)
        return len(numbers)

    def _to_answer(self, probabilities: np.ndarray | None, error: str | None) -> Row:
        """Return the columns ANSWER_COLUMNS: a label, none where the model abstains, or an error.

        `top_k` holds the most probable classes; for a multi-label model also every predicted label.
        """
        if probabilities is None:
            return {"label": None, "probability": None, "top_k": None, "status": "error", "error": error}
        info = self.bundle.info
        label, probability = info.to_prediction(probabilities)
        labels = set(parse_labels(label)) if info.multi_label else {label}
        ranked = [(info.classes[i], float(probabilities[i])) for i in (-probabilities).argsort(kind="stable")]
        top = [
            {"label": name, "probability": p}
            for rank, (name, p) in enumerate(ranked)
            if rank < self.top_k or name in labels
        ]
        answer: Row = {"label": label, "probability": probability, "top_k": top, "status": "ok", "error": None}
        if self.abstain_below is not None and probability < self.abstain_below:
            answer |= {"label": None, "status": "abstained"}
        return answer

    def _to_row(self, image: ImageRef, answer: Row) -> Row:
        return {
            "uri": image.uri, "image_id": image.image_id,
            "model_name": self.version.name, "model_version": self.version.number,
            "dataset_fingerprint": self.bundle.info.dataset.get("fingerprint"), **answer,
        }  # fmt: skip


def open_validation_split(bundle: Bundle, project: Project) -> StoreSplit | None:
    """Return the validation split of a bundle's training data; None if data/normalized holds other data by now."""
    store = open_training_store(bundle, project)
    split = store.split("val") if store is not None else None
    return split if split is not None and len(split) else None


def open_training_store(bundle: Bundle, project: Project) -> ImageStore | None:
    """Return the dataset that a bundle was trained on; None if data/normalized holds other data by now."""
    from imageset.store.reader import ImageStore

    try:
        store = ImageStore.open(project / NORMALIZED)
    except UserError:
        return None
    same = store.fingerprint == bundle.info.dataset.get("fingerprint") and store.classes == bundle.info.classes
    return store if same else None
