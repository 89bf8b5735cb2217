import shutil

import numpy as np

from imageset.sources.factory import open_source
from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle
from lightning_modules.evaluation.label_issues import format_label_issues
from lightning_modules.evaluation.report import ScoredSplit, collect_label_issues
from lightning_modules.scoring import Scorer


def test_likely_label_errors_are_found_and_ingest_reads_the_table(trained, tmp_path):
    store = ImageStore.open(trained / "data/normalized")
    test, val = (store.split(name) for name in ("test", "val"))
    scorer = Scorer(Bundle.load(trained / "data/models/classifier"))
    seen = [ScoredSplit(one, scorer.split_logits(one, 64), scorer.temperature) for one in (test, val)]
    swapped = np.arange(0, len(test), 10)
    test.labels[swapped] = (test.labels[swapped] + 1) % 10
    rows = collect_label_issues(seen)
    found = {row[0] for row in rows} & {test.uris[i] for i in swapped}
    assert len(found) > 0.7 * len(swapped) and len(rows) < 2 * len(swapped)

    pictures = shutil.copytree(trained / "data/digits", tmp_path / "digits")
    (pictures / "review.csv").write_bytes(format_label_issues(rows))
    read = list(open_source(str(pictures / "review.csv")))
    assert [(one.uri, one.label) for one in read] == [(row[0], row[1]) for row in rows]
    assert read[0].read().startswith(b"\x89PNG")


def test_a_label_that_a_spreadsheet_would_run_is_escaped_and_ingest_reads_it_back(tmp_path):
    table = format_label_issues(
        [("=a.png", "@x", "-1", 0.5, "val", "00"), ("b.png", "+y", "@x", 0.5, "val", "01")]
    )
    assert table.splitlines()[1:] == [b"'=a.png,'@x,-1,0.500000,val,00", b"b.png,'+y,'@x,0.500000,val,01"]
    for name in ("=a.png", "b.png"):
        (tmp_path / name).write_bytes(b"0")
    (tmp_path / "review.csv").write_bytes(table)
    source = open_source(str(tmp_path / "review.csv"))
    assert [(one.uri, one.label, one.read()) for one in source] == [("=a.png", "@x", b"0"), ("b.png", "+y", b"0")]
    assert "apostrophe" in source.describe()
