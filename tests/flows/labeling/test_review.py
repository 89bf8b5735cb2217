import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.labeling.review import select_k_center, write_review
from flows.labeling.tagging import check_tagging, tag_images
from flows.prediction.image_stream import open_images
from flows.prediction.summary import render_prediction_markdown
from flows.prediction.table_writer import PredictionCounts
from imageset.exceptions import UserError
from imageset.raw import ingestion
from imageset.raw import records as raw_records
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


def test_pictures_are_picked_far_from_each_other():
    vectors = [np.array([x, 0.0]) for x in (0.0, 0.01, 0.02, 1.0, 1.01, 5.0)]
    assert select_k_center(vectors, 3) == [0, 5, 4]
    assert sorted(select_k_center(vectors, 10)) == [0, 1, 2, 3, 4, 5]


def test_a_review_that_a_person_filled_in_is_ingested_as_it_is(pictures, bundle, tmp_path):
    folder = tmp_path / "out.review"
    assert write_review(folder, open_images(str(pictures)), rows_of(pictures), bundle, 6) == 6
    with (folder / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image_id"] for row in rows}) == 6 and {row["label"] for row in rows} == {""}
    assert rows[0]["guess"] == "0" and float(rows[0]["margin"]) == pytest.approx(0.4)
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
