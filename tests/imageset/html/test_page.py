import re
import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from imageset.html.page import HTML_DIR, Figure, build_environment, encode_data_uri, render_page
from tests.helpers.project import ROOT

HOSTILE = "<script>alert('1')</script>\n\x1b[31m\u202e\"&"
SPELLED_OUT = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\\n\\x1b[31m\\u202e&#34;&amp;"
TEMPLATES = sorted(path.name for path in (HTML_DIR / "templates").iterdir())


def render_comparison() -> str:
    """A page whose every text is hostile."""
    image = {"image_id": HOSTILE, "actual": HOSTILE, "first": HOSTILE, "second": HOSTILE, "image": b"\xff\xd8"}
    values = {"title": HOSTILE, "summary": HOSTILE, "first_run_id": HOSTILE, "second_run_id": HOSTILE,
              "tables": [(HOSTILE, [(HOSTILE, HOSTILE, HOSTILE)])], "changed": [(HOSTILE, [image])]}  # fmt: skip
    return render_page("comparison.html", values).decode()


def test_every_text_is_escaped_and_its_control_characters_are_spelled_out():
    page = render_comparison()
    assert page.count(SPELLED_OUT) == 3 + 1 + 2 + 3 + 1 + 4
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page


def test_text_in_a_macro_and_in_an_attribute_is_escaped():
    template = build_environment().from_string(
        '{% from "macros.html" import bars, figure %}{{ figure(item) }}{{ bars([(item.caption, 0.5)]) }}'
    )
    page = template.render(item=Figure(b"\x89PNG", HOSTILE))
    assert f'alt="{SPELLED_OUT}"' in page and page.count(SPELLED_OUT) == 3 and "<script" not in page


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_marks_only_the_style_sheet_as_safe(name):
    text = (HTML_DIR / "templates" / name).read_text(encoding="utf-8")
    assert re.findall(r"(\w+) *\| *safe", text) == (["style"] if name == "base.html" else [])
    assert "autoescape" not in text


def test_a_page_loads_nothing_from_elsewhere_and_knows_light_and_dark():
    page = render_comparison()
    assert set(re.findall(r"(?:src|href|url)[=(]\"?(\w+:)", page)) == {"data:"}
    assert "http" not in page and "@import" not in page and "prefers-color-scheme:dark" in page


def test_a_name_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render_page("comparison.html", {})


def test_a_data_uri_names_the_format_of_the_image():
    assert encode_data_uri(b"\xff\xd8\xff") == "data:image/jpeg;base64,/9j/"
    assert encode_data_uri(b"\x89PN") == "data:image/png;base64,iVBO"


def test_jinja_is_imported_only_when_a_page_is_rendered():
    code = "import sys, imageset.normalize.stage, imageset.html.page; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_wheel_holds_the_templates_and_the_style_sheet():
    import tomllib

    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = {path for glob in setuptools["package-data"]["imageset"] for path in (ROOT / "imageset").glob(glob)}
    assert packaged == {path for path in HTML_DIR.rglob("*") if path.suffix in (".css", ".html")}
