import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.labeling.labeled_images import LabeledImages
from flows.labeling.review import ReviewResult, write_review
from flows.labeling.tagging import check_tagging, tag_images
from flows.prediction.image_stream import open_images
from flows.prediction.summary import render_prediction_markdown
from flows.prediction.table_writer import PredictionCounts
from imageset.exceptions import UserError
from imageset.raw import ingestion
from imageset.raw import records as raw_records
from imageset.raw.label_import import import_labels
from imageset.sources.factory import open_label_table
from tests.helpers.images import write_digit_images
from tests.helpers.models import make_untrained_bundle

FACTS = {"model_name": "digits", "model_version": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_untrained_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def pictures(tmp_path):
    return write_digit_images(tmp_path / "pictures", classes="01", num_each=15)


def rows_of(source) -> list[dict]:
    """Rows as a model would give them; the pictures of each class are less and less sure."""
    rows = []
    for number, (picture, _) in enumerate(open_images(str(source))):
        top = [
            {"label": "0", "probability": 0.99 - 0.01 * number},
            {"label": "1", "probability": 0.01 + 0.01 * number},
        ]
        rows.append({"uri": picture.uri, "image_id": picture.image_id, "top_k": top, "status": "ok", "error": None,
                     **top[0], **FACTS})  # fmt: skip
    return rows


def read_table(folder) -> list[dict]:
    with (folder / "review.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def review(pictures, bundle, folder, num, rows=None, **options):
    rows = rows_of(pictures) if rows is None else rows
    return write_review(folder, open_images(str(pictures)), lambda: iter(rows), bundle, num, **options)


def test_a_review_that_a_person_filled_in_is_ingested_as_it_is(pictures, bundle, tmp_path):
    folder = tmp_path / "out.review"
    assert review(pictures, bundle, folder, 6) == ReviewResult(6)
    rows = read_table(folder)
    assert list(rows[0]) == ["path", "label", "guess", "probability", "margin", "uri", "image_id", "model"]
    assert len({row["image_id"] for row in rows}) == 6 and {row["label"] for row in rows} == {""}
    assert {(row["guess"], row["model"]) for row in rows} == {("0", "digits version 1")}
    assert all(float(row["margin"]) == pytest.approx(2 * float(row["probability"]) - 1) for row in rows)
    for number, row in enumerate(rows):
        row["label"] = "seven" if number % 2 else "nine"
    with (folder / "review.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    ingestion.ingest_source(folder / "review.csv", tmp_path / "raw")
    records = raw_records.read_records(tmp_path / "raw").to_pylist()
    assert {(one["image_id"], one["label"]) for one in records} == {
        (row["image_id"], row["label"]) for row in rows
    }


def test_the_same_pictures_are_picked_again_whatever_the_order_of_the_predictions(pictures, bundle, tmp_path):
    review(pictures, bundle, tmp_path / "one", 5)
    review(pictures, bundle, tmp_path / "two", 5, rows_of(pictures)[::-1])
    assert (tmp_path / "one/review.csv").read_bytes() == (tmp_path / "two/review.csv").read_bytes()
    assert (tmp_path / "one/review.html").read_bytes() == (tmp_path / "two/review.html").read_bytes()


def test_of_near_duplicates_the_least_sure_is_picked_and_the_pool_grows_until_there_are_enough(
    pictures, bundle, tmp_path
):
    """A series of 40 pictures that look alike, of which the model is less sure than of all others."""
    with Image.open(sorted((pictures / "0").iterdir())[0]) as picture:
        pixels = np.asarray(picture.convert("L"))
    (pictures / "burst").mkdir()
    for number in range(40):
        changed = pixels.copy()
        changed[0, number % pixels.shape[1]] += number // pixels.shape[1] + 1
        Image.fromarray(changed).save(pictures / "burst" / f"{number:02d}.png")
    rows = rows_of(pictures)
    for number, row in enumerate(rows):
        series = row["uri"].startswith("burst")
        best = 0.52 + 0.001 * (number % 7) if series else 0.985 + 0.0001 * number
        row |= {"top_k": [{"label": "0", "probability": best}, {"label": "1", "probability": 1 - best}]}
    assert review(pictures, bundle, tmp_path / "review", 3, rows) == ReviewResult(3)
    chosen = read_table(tmp_path / "review")
    from_series = [float(row["margin"]) for row in chosen if row["uri"].startswith("burst")]
    assert from_series == [pytest.approx(0.04)]
    review(pictures, bundle, tmp_path / "all", 3, rows, near_duplicate_bits=None)
    assert [row["uri"].partition("/")[0] for row in read_table(tmp_path / "all")] == ["burst"] * 3


def test_pictures_with_a_label_and_errors_are_not_proposed(pictures, bundle, tmp_path):
    ingestion.ingest_source(pictures, tmp_path / "raw")
    labeled = LabeledImages.read(tmp_path / "raw")
    assert len(labeled) == 30 and len(LabeledImages.read(tmp_path / "nothing")) == 0
    assert review(pictures, bundle, tmp_path / "review", 5, labeled=labeled) == ReviewResult(0)
    assert not (tmp_path / "review").exists()

    write_digit_images(tmp_path / "new", classes="2", num_each=3)
    for path in (tmp_path / "new").rglob("*.png"):
        path.rename(pictures / f"new-{path.name}")
    rows = rows_of(pictures)
    broken = next(row for row in rows if row["uri"].startswith("new"))
    broken |= {"status": "error", "label": None, "probability": None, "top_k": None, "error": "truncated: x"}
    assert review(pictures, bundle, tmp_path / "review", 5, rows, labeled=labeled).num_images == 2
    assert [row["uri"].partition("-")[0] for row in read_table(tmp_path / "review")] == ["new"] * 2


def test_a_picture_that_a_person_labelled_is_not_proposed_again(pictures, bundle, tmp_path):
    ingestion.ingest_source(write_digit_images(tmp_path / "source", classes="23"), tmp_path / "raw")
    review(pictures, bundle, tmp_path / "review", 4)
    table = tmp_path / "review" / "review.csv"
    rows = read_table(table.parent)
    for row in rows:
        row["label"] = "2"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    labels = open_label_table(str(table))
    assert labels is not None
    import_labels(labels.iter_rows(False), tmp_path / "raw", "review.csv", "Anna")
    labeled = LabeledImages.read(tmp_path / "raw")
    review(pictures, bundle, tmp_path / "again", 4, labeled=labeled)
    again = {row["image_id"] for row in read_table(tmp_path / "again")}
    assert len(again) == 4 and again.isdisjoint(row["image_id"] for row in rows)


def test_a_picture_of_which_the_model_is_sure_is_picked_last_and_the_line_says_so(pictures, bundle, tmp_path):
    rows = rows_of(pictures)
    for row in rows[3:]:
        row["top_k"] = [{"label": "0", "probability": 0.9999}, {"label": "1", "probability": 0.0001}]
    assert review(pictures, bundle, tmp_path / "three", 3, rows) == ReviewResult(3, 0)
    assert {row["uri"] for row in read_table(tmp_path / "three")} == {row["uri"] for row in rows[:3]}
    result = review(pictures, bundle, tmp_path / "five", 5, rows)
    assert result == ReviewResult(5, 2)
    assert result.describe(5) == (
        "; the model is sure of 2 of them (margin 0.99 or more), nothing less sure is left"
    )
    more = review(pictures, bundle, tmp_path / "all", 50, rows)
    assert more.num_images == 30 and more.describe(50).startswith("; 50 pictures asked for, no more are readable")


def test_the_page_shows_each_picture_with_the_guess(pictures, bundle, tmp_path):
    rows = rows_of(pictures)
    for row in rows:
        row["top_k"][0]["label"] = "<b>&"
    review(pictures, bundle, tmp_path / "review", 4, rows)
    page = (tmp_path / "review" / "review.html").read_text()
    assert page.count("<img") == page.count("&lt;b&gt;&amp;") == 4 and "<b>" not in page
    assert "digits version 1" in page and "convoy run review.csv" in page


def test_tags_go_into_copies_and_the_source_stays_as_it_was(pictures, tmp_path):
    before = {path: path.read_bytes() for path in pictures.rglob("*.png")}
    rows = rows_of(pictures)
    rows[0] |= {"label": None, "status": "abstained"}
    done = tag_images(open_images(str(pictures)), rows, "xmp", tmp_path / "out.tagged")
    assert done == {"tagged": 29, "no label (abstained)": 1}
    assert {path: path.read_bytes() for path in pictures.rglob("*.png")} == before
    copy = tmp_path / "out.tagged" / rows[1]["uri"]
    with Image.open(copy) as tagged, Image.open(pictures / rows[1]["uri"]) as plain:
        assert tagged.tobytes() == plain.tobytes()
        assert "<rdf:li>0</rdf:li>" in tagged.text["XML:com.adobe.xmp"]


def test_tags_go_into_the_pictures_themselves_if_that_is_wanted(pictures):
    odd = pictures / "0" / "a\\b \udcff.png"
    odd.write_bytes(next((pictures / "1").iterdir()).read_bytes())
    (pictures / "1" / "film.gif").write_bytes(gif())
    rows = rows_of(pictures)
    assert tag_images(open_images(str(pictures)), rows, "xmp", None) == {"tagged": 32}
    assert b"<rdf:li>0</rdf:li>" in odd.read_bytes()
    assert (pictures / "1" / "film.gif").read_bytes() == gif()
    assert b"<rdf:li>0</rdf:li>" in (pictures / "1" / "film.gif.xmp").read_bytes()
    again = tag_images(open_images(str(pictures)), rows, "xmp", None)
    assert again == {"changed or gone meanwhile": 31, "tagged": 1}


def test_a_sidecar_that_is_no_xmp_is_left_alone(pictures):
    (pictures / "0" / "0000.png.xmp").write_text("<mine/>")
    done = tag_images(open_images(str(pictures)), rows_of(pictures), "sidecar", None)
    assert done == {"tagged": 29, "has a sidecar file with XMP in a form that tags cannot be added to": 1}
    assert (pictures / "0" / "0000.png.xmp").read_text() == "<mine/>"


def test_members_of_an_archive_never_leave_the_folder_of_copies(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        picture = next(pictures.rglob("*.png"))
        archive.write(picture, "0/good.png")
        archive.write(picture, "../../evil.png")
        archive.write(picture, "/evil.png")
    source = tmp_path / "evil.zip"
    copies = tmp_path / "deep" / "out.tagged"
    tag_images(open_images(str(source)), rows_of(source), "xmp", copies)
    assert (copies / "0" / "good.png").is_file()
    assert [*tmp_path.rglob("evil.png"), *Path("/").glob("evil.png")] == list(copies.rglob("evil.png"))
    with pytest.raises(UserError, match="only pictures that are files of a folder"):
        check_tagging("xmp", True, open_images(str(source)))


def test_the_summary_shows_counts_labels_and_the_least_sure(pictures, bundle):
    counts = PredictionCounts([])
    counts.labels.update({"0": 20, "a|b": 10})
    counts.statuses.update({"ok": 29, "error": 1})
    page = render_prediction_markdown(
        "out", counts, {"engine": "pytorch"}, rows_of(pictures), open_images(str(pictures)), bundle.spec
    )
    assert "| rows | 30 |" in page and "| errors | 1 |" in page and "| engine | pytorch |" in page
    assert "| a\\|b | 10 | " + "█" * 15 + " |" in page
    assert page.count("data:image/jpeg;base64,") == 12


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    return buffer.getvalue()
