from types import SimpleNamespace

import pytest

from flows.project.project import Project
from flows.promotion.gates.speed import NUM_TIMED_IMAGES, evaluate_speed
from imageset.raw import shards
from lightning_modules.inference import latency


@pytest.mark.parametrize(
    ("candidate_ms", "max_slowdown", "passes"),
    [(5.9, 3.0, True), (6.0, 3.0, True), (6.1, 3.0, False), (9.0, None, True)],
)
def test_a_model_may_take_a_multiple_of_the_champions_time(monkeypatch, candidate_ms, max_slowdown, passes):
    asked = []
    image_ids = [str(number) for number in range(NUM_TIMED_IMAGES + 9)]
    store = SimpleNamespace(split=lambda name: SimpleNamespace(image_ids=image_ids if name == "test" else []))
    monkeypatch.setattr(
        shards, "read_image_bytes", lambda folder, ids: ((image_id, image_id.encode()) for image_id in ids)
    )

    def measure(bundles, images):
        asked.append((bundles, list(images)))
        return candidate_ms, 2.0

    monkeypatch.setattr(latency, "measure_latency_ms", measure)
    gate = evaluate_speed("new", "old", store, {"max_slowdown": max_slowdown}, Project("."))
    assert (gate.name, gate.passes) == ("speed", passes)
    assert gate.numbers == {"ms": candidate_ms, "compared_ms": 2.0}
    assert gate.message.startswith(f"{candidate_ms:.2f} ms a picture against 2.00")
    assert gate.message.endswith("more than 3 times as slow") is not passes
    assert asked == [(("new", "old"), [image_id.encode() for image_id in image_ids[:NUM_TIMED_IMAGES]])]
