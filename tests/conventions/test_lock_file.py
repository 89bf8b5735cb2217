import re

from tests.helpers.project import ROOT


def test_the_lock_is_exact_and_names_no_address():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert len(lines) > 100
    assert [
        line for line in lines if not re.match(r"^[A-Za-z0-9._-]+(\[[\w,]+\])?==[\w.+!]+( ; .*)?$", line)
    ] == []
