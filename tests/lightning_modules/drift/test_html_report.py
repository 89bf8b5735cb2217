import numpy as np

from lightning_modules.drift.detector import DriftParams, detect_drift
from lightning_modules.drift.html_report import render_drift_page
from lightning_modules.features.reference_sample import ImageSample

PARAMS = DriftParams(alpha=0.01, permutations=999, seed=0)
CLASSES = ["cat", "<u>dog", "a\nb"]


def make_sample(num: int, confidence: float, seed: int) -> ImageSample:
    draws = np.random.default_rng(seed)
    return ImageSample(
        classes=np.arange(num) % len(CLASSES),
        confidence=draws.normal(confidence, 0.05, num).clip(0, 1).astype(np.float32),
        rejected=np.array([0, num]),
        short_side_px=np.full(num, 64),
    )


def render(reference: ImageSample, batch: ImageSample, images: list[tuple[np.ndarray, str]]) -> str:
    found = detect_drift(reference, batch, PARAMS, CLASSES)
    page = render_drift_page("Drift: <u>", "<u>", reference, batch, found, PARAMS, CLASSES, images, [])
    return page.decode()


def test_the_page_shows_what_moved_and_escapes_every_name():
    small, large = np.zeros((16, 16, 1), np.uint8), np.zeros((300, 200, 3), np.uint8)
    page = render(make_sample(90, 0.8, 0), make_sample(60, 0.4, 1), [(small, "<u>.png"), (large, "b.jpg")])
    assert "Moved: confidence." in page and "<h3>confidence, moved</h3>" in page
    assert page.count("<svg") == 1 and "all are 64" in page  # of equal numbers there is no histogram
    assert "data:image/png" in page and "data:image/jpeg" in page
    assert "<h3>&lt;u&gt;dog</h3>" in page and "<h3>a\\nb</h3>" in page and "<u>" not in page


def test_histograms_are_as_high_as_their_highest_bins():
    page = render(make_sample(90, 0.8, 0), make_sample(60, 0.7, 1), [])
    points = [point.split(",") for point in page.partition('points="')[2].partition('"')[0].split()]
    heights = [float(y) for _, y in points]
    assert len(points) == 64 and (min(heights), max(heights)) == (8.0, 84.0)
    assert 'y="8.0" width="10.0" height="76.0"' in page


def test_a_batch_without_a_readable_picture_has_a_page():
    empty = ImageSample(np.array([], int), np.array([], np.float32), np.array([5, 5]))
    page = render(make_sample(90, 0.8, 0), empty, [])
    assert "Moved: cannot be read." in page and "Predicted classes" not in page
