import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from flows.labeling.tagging import TAGGED, tag_images
from flows.labeling.xmp_packet import remove_tags
from flows.prediction.image_stream import open_images
from tests.helpers.xmp_samples import DARKTABLE, REFUSED, SAMPLES

# The packets that ExifTool reads; it takes no CDATA, no > in an attribute, and needs the prefix rdf.
READ_BY_EXIFTOOL = ("lightroom", "darktable", "digikam", "apple_photos", "exiftool", "crlf",
                    "other_prefixes", "self_closed", "empty_bag", "self_closed_bag", "self_closed_subject",
                    "single_text")  # fmt: skip


def encode_image(kind: str, packet: str | None = None) -> bytes:
    buffer = io.BytesIO()
    options = {"xmp": packet.encode()} if packet else {}
    Image.new("RGB", (16, 12), (200, 30, 30)).save(buffer, kind, **options)
    return buffer.getvalue()


def tag(folder: Path, way: str = "xmp", target: Path | None = None, label: str = "daisy") -> dict[str, int]:
    images = open_images(str(folder))
    rows = [
        {"uri": image.uri, "image_id": image.image_id, "label": label, "probability": 0.9312, "status": "ok",
         "model_name": "flowers", "model_version": 3}
        for image, _ in images
    ]  # fmt: skip
    return dict(tag_images(images, rows, way, target))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def test_a_sidecar_of_another_program_is_merged_with_and_keeps_its_permissions(folder):
    (folder / "a.jpg").write_bytes(encode_image("JPEG"))
    sidecar = folder / "a.jpg.xmp"
    sidecar.write_text(DARKTABLE)
    sidecar.chmod(0o640)
    assert tag(folder, "sidecar") == {TAGGED: 1}
    merged = sidecar.read_bytes()
    assert b"<rdf:li>daisy</rdf:li>" in merged and remove_tags(merged) == DARKTABLE.encode()
    assert sidecar.stat().st_mode & 0o777 == 0o640
    assert tag(folder, "sidecar") == {TAGGED: 1} and sidecar.read_bytes() == merged
    assert tag(folder, "sidecar", label="rose") == {TAGGED: 1}
    assert b"daisy" not in sidecar.read_bytes() and remove_tags(sidecar.read_bytes()) == DARKTABLE.encode()
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg", "a.jpg.xmp"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_sidecar_that_cannot_be_merged_with_is_left_alone_and_named(folder, name):
    packet, reason = REFUSED[name]
    (folder / "a.jpg").write_bytes(encode_image("JPEG"))
    (folder / "a.jpg.xmp").write_bytes(packet)
    (outcome,) = tag(folder, "sidecar")
    assert outcome.startswith("has a sidecar file with ") and reason in outcome
    assert (folder / "a.jpg.xmp").read_bytes() == packet


def test_a_sidecar_that_cannot_be_read_is_named(folder):
    (folder / "a.jpg").write_bytes(encode_image("JPEG"))
    (folder / "a.jpg.xmp").mkdir()
    assert tag(folder, "sidecar") == {"has a sidecar file that cannot be read": 1}
    (folder / "a.jpg.xmp").rmdir()
    (folder / "a.jpg.xmp").symlink_to("nowhere")
    assert tag(folder, "sidecar") == {"has a sidecar file that cannot be read": 1}


def test_a_picture_with_xmp_of_another_program_is_tagged_in_a_copy_or_in_place(folder, tmp_path):
    data = encode_image("JPEG", SAMPLES["lightroom"][0])
    (folder / "a.jpg").write_bytes(data)
    (folder / "a.jpg").chmod(0o604)
    assert tag(folder, target=tmp_path / "tagged") == {TAGGED: 1}
    assert (folder / "a.jpg").read_bytes() == data
    assert tag(folder) == {TAGGED: 1}
    assert (folder / "a.jpg").read_bytes() == (tmp_path / "tagged" / "a.jpg").read_bytes() != data
    assert (folder / "a.jpg").stat().st_mode & 0o777 == 0o604


def test_a_picture_that_cannot_be_merged_with_is_left_as_it_is(folder, tmp_path):
    data = encode_image("JPEG", SAMPLES["lightroom"][0][:800])
    (folder / "a.jpg").write_bytes(data)
    assert tag(folder) == {"has damaged XMP": 1} and (folder / "a.jpg").read_bytes() == data
    assert tag(folder, target=tmp_path / "tagged") == {"has damaged XMP": 1}
    assert (tmp_path / "tagged" / "a.jpg").read_bytes() == data


# ---- ExifTool --------------------------------------------------------------------------------------------------


needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="ExifTool is not installed")


def read_with_exiftool(path: Path) -> dict:
    """All fields of XMP, and what ExifTool's validation says of the file."""
    command = ["exiftool", "-j", "-a", "-struct", "-validate", "-warning", "-error", "-XMP:all", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]


def list_of(value) -> list[str]:
    return value if isinstance(value, list) else [str(value)] if value not in (None, "") else []


@needs_exiftool
@pytest.mark.parametrize("name", READ_BY_EXIFTOOL)
def test_exiftool_finds_nothing_wrong_and_all_fields_of_before(folder, name):
    text, keywords = SAMPLES[name]
    path = folder / "a.jpg"
    path.write_bytes(encode_image("JPEG", text))
    before = read_with_exiftool(path)
    assert tag(folder) == {TAGGED: 1}
    after = read_with_exiftool(path)
    assert list_of(after["Subject"]) == [*keywords, "daisy"]
    assert list_of(after["Tags"]) == ["daisy"] and after["Model"] == "flowers version 3"
    if before["Validate"] == "OK":
        assert after["Validate"] == "OK"
    assert after.get("Warning") in (None, "[minor] XMP is missing xpacket wrapper", before.get("Warning"))
    ours = {"Subject", "Tags", "Model", "Probability", "Replaced", "Validate", "Warning"}
    assert {k: v for k, v in after.items() if k not in ours} == {k: v for k, v in before.items() if k not in ours}


@needs_exiftool
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.jpg.xmp"])
def test_files_that_exiftool_writes_before_and_after_us(folder, name):
    kind = "PNG" if name.endswith("png") else "JPEG"
    (folder / name.removesuffix(".xmp")).write_bytes(encode_image(kind))
    way = "sidecar" if name.endswith("xmp") else "xmp"

    def write(*changes: str) -> None:
        subprocess.run(["exiftool", "-q", "-overwrite_original", *changes, str(folder / name)], check=True)

    write("-XMP-dc:Subject=garden", "-XMP-lr:HierarchicalSubject=Places|Bonn", "-XMP:Rating=4")
    assert tag(folder, way) == {TAGGED: 1}
    write("-XMP-dc:Subject+=added later", "-XMP:Rating=5")
    assert tag(folder, way, label="rose") == {TAGGED: 1}
    found = read_with_exiftool(folder / name)
    assert sorted(found["Subject"]) == ["added later", "garden", "rose"]
    assert list_of(found["Tags"]) == ["rose"] and list_of(found["HierarchicalSubject"]) == ["Places|Bonn"]
    assert (found["Rating"], found["Validate"]) == (5, "OK")
