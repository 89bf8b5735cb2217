from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imageset.decoding.decoder import decode_partial
from imageset.decoding.spec import DecodeSpec
from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.rejections import Rejected
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, make_store
from tests.helpers.images import draw_photo, encode_jpeg, encode_noise, make_image_folder, make_photo_folder

SPEC = DecodeSpec(32, 3, "crop", "bilinear", 10**6)


def page_of(store: ImageStore) -> str:
    return (store.path / "dataset.html").read_text()


def section(page: str, name: str) -> str:
    found = re.search(f'<section id="{name}">(.*?)</section>', page, re.S)
    assert found is not None
    return found[1]


def pictures_in(text: str) -> list[np.ndarray]:
    """Every picture that a part of the page embeds, (H, W, 3)."""
    data = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in data]


def test_the_page_shows_classes_and_refusals_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    source = make_image_folder(tmp_path / "set", classes=("ant", "<script>alert(1)<"))
    (source / "ant" / "cut.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    (source / "ant" / "copy.png").write_bytes((source / "ant" / "0000.png").read_bytes())
    page = page_of(make_store(tmp_path, source))
    refused = section(page, "rejected")
    expected = ("ant/cut.png", "truncated: 1", "duplicate: 1", "ant/copy.png", "the same bytes as ant/0000.png")
    assert [text for text in expected if text not in refused] == []
    assert "&lt;script&gt;alert(1)&lt;" in section(page, "classes") and "<script" not in page
    assert "http" not in page and "url(data:image/jpeg;base64," in page and not re.search(r"url\((?!data:)", page)
    assert set(re.findall(r'(?:src|href)="(\w+:|#)', page)) == {"data:", "#"}
    assert len(pictures_in(section(page, "pictures"))) == 2 and "viewport" in page and "dark" in page


def test_a_contact_sheet_holds_the_pictures_of_its_class(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set", num_each=30))
    sheets = section(page_of(store), "pictures")
    ant, _ = pictures_in(sheets)
    assert ant.shape == (80, 24 * 80, 3) and sheets.count("<i style=") == 48
    first = store.index.filter(np.array([one == "ant" for one in store.index["label"].to_pylist()])).sort_by(
        "image_id"
    )
    pixels = store.open_shard(first["shard"][0].as_py())[first["row"][0].as_py()]
    shown = np.asarray(Image.fromarray(ant[:, :80]).resize((16, 16), Image.Resampling.BOX))
    assert np.abs(shown.astype(int) - pixels).mean() < 12


def test_of_a_truncated_photograph_the_sound_part_is_shown(tmp_path: Path) -> None:
    source = make_photo_folder(tmp_path / "set", num_each=12)
    whole = encode_jpeg(draw_photo(500).resize((256, 256)), 95)
    (source / "ant" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    ingest_source(source, tmp_path / "raw")
    normalize(tmp_path / "raw", tmp_path / "normalized", NORMALIZE_PARAMS | {"size_px": 32}, workers=1)
    (shown,) = pictures_in(section(page_of(ImageStore.open(tmp_path / "normalized")), "rejected"))
    expected = np.asarray(draw_photo(500).resize((80, 80)))
    assert np.abs(shown[:30].astype(int) - expected[:30]).mean() < 20
    assert np.abs(shown[60:].astype(int) - expected[60:]).mean() > 30


def test_what_can_be_shown_of_a_tiny_picture_is_shown_and_of_no_picture_nothing() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (200, 30, 30)).save(buffer, "PNG")
    assert np.abs(decode_partial(buffer.getvalue(), SPEC).astype(int) - (200, 30, 30)).max() <= 1
    for data in (b"", b"text", buffer.getvalue()[:20]):
        with pytest.raises(Rejected):
            decode_partial(data, SPEC)


def test_look_alikes_stand_side_by_side_and_conflicts_show_both_files(tmp_path: Path) -> None:
    source = make_photo_folder(tmp_path / "set")
    (source / "ant" / "again.jpg").write_bytes(encode_jpeg(draw_photo(3), 60))
    (source / "bee" / "quarrel.jpg").write_bytes((source / "ant" / "007.jpg").read_bytes())
    params = {"near_duplicate_bits": 4, "size_px": 32, "max_reject_fraction": 0.1}
    page = page_of(make_store(tmp_path, source, **params))
    near, refused = section(page, "near-duplicates"), section(page, "rejected")
    assert "2 pictures in 1 group of" in near and near.count("<figure>") == 2 and "ant/again.jpg" in near
    assert "label_conflict: 2" in refused and "bee/quarrel.jpg" in refused and len(pictures_in(refused)) == 2


def test_the_page_stays_small_however_many_classes_there_are(tmp_path: Path) -> None:
    source = make_image_folder(
        tmp_path / "set", classes=tuple(f"kind {number:03d}" for number in range(260)), num_each=4
    )
    page = page_of(make_store(tmp_path, source, size_px=64))
    assert len(page) < 8 << 20
    assert "and 60 more classes, none of them larger" in section(page, "classes")
    assert "and 160 more classes" in section(page, "pictures")


def test_texts_of_the_source_are_escaped_wherever_they_are_shown(tmp_path: Path) -> None:
    source = make_photo_folder(tmp_path / "set")
    (source / "ant").rename(source / 'a"<u>')
    (source / 'a"<u>' / "<u>again.jpg").write_bytes(encode_jpeg(draw_photo(3), 60))
    (source / "bee" / "\t<u>.jpg").write_text("no picture")
    page = page_of(make_store(tmp_path, source, near_duplicate_bits=4, size_px=32, max_reject_fraction=0.1))
    assert "<u>" not in page and 'aria-label="pictures of a&#34;&lt;u&gt;"' in page
    assert "&lt;u&gt;again.jpg" in section(page, "near-duplicates")
    assert "bee/\\t&lt;u&gt;.jpg" in section(page, "rejected")
