"""The gate `speed`: the candidate takes no more than a multiple of the champion's time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.project.paths import RAW
from flows.project.project import Project
from flows.promotion.gates.gate import Gate

if TYPE_CHECKING:
    from imageset.store.reader import ImageStore
    from lightning_modules.bundle import Bundle

NUM_TIMED_IMAGES = 64  # test images that the speed is measured on


def evaluate_speed(
    candidate: Bundle, champion: Bundle, store: ImageStore, params: dict[str, Any], project: Project
) -> Gate:
    """Check that the candidate takes at most `max_slowdown` times as long per image; both are timed in turns."""
    from imageset.raw.shards import read_image_bytes
    from lightning_modules.inference.latency import measure_latency_ms

    images = [
        data for _, data in read_image_bytes(project / RAW, store.split("test").image_ids[:NUM_TIMED_IMAGES])
    ]
    candidate_ms, champion_ms = measure_latency_ms((candidate, champion), images)
    message = f"{candidate_ms:.2f} ms a picture against {champion_ms:.2f}"
    numbers = {"ms": candidate_ms, "compared_ms": champion_ms}
    max_slowdown = params["max_slowdown"]
    if max_slowdown is None or candidate_ms <= max_slowdown * champion_ms:
        return Gate("speed", True, message, numbers)
    return Gate("speed", False, f"{message}: more than {max_slowdown:g} times as slow", numbers)
