from __future__ import annotations

import pytest

from imageset.utils.url_credentials import extract_secrets, mask_url, redact, restore_secrets

# ---- credentials -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://a.org/set.zip?download=1&id=7", None),
        ("https://user:sesame@a.org/set.zip", "https://user:***@a.org/set.zip"),
        ("https://sesame@a.org/set.zip", "https://***@a.org/set.zip"),
        ("sftp://user@a.org/set.zip", None),
        (
            "https://a.org/t.csv?label=token&X-Amz-Date=2026&X-Amz-Signature=sesame#x",
            "https://a.org/t.csv?label=token&X-Amz-Date=***&X-Amz-Signature=***#x",
        ),
        (
            "https://a.org/a.zip?Signature=ses&X-Amz-Signature=sesame&AWSAccessKeyId=A&Expires=9&v=2",
            "https://a.org/a.zip?Signature=***&X-Amz-Signature=***&AWSAccessKeyId=***&Expires=***&v=2",
        ),
        ("https://a.org/a.zip?sv=2024&se=9&sig=se%2Fs", "https://a.org/a.zip?sv=***&se=***&sig=***"),
        ("https://a.org/a.zip?se=9", None),
        (
            "https://a.org/a.zip?api_key=sesame&access_token=sesame",
            "https://a.org/a.zip?api_key=***&access_token=***",
        ),
        ("https://a.org/a.zip?q=eyJhbGciOiJIUzI1NiJ9.sesame", "https://a.org/a.zip?q=***"),
        ("table.csv?label=key", None),
        ("file:///x/t.csv?label=key&key=path", None),
    ],
)
def test_of_a_url_everything_is_shown_but_credentials(url: str, masked: str | None) -> None:
    assert mask_url(url) == (masked or url) and mask_url(mask_url(url)) == mask_url(url)
    assert restore_secrets(mask_url(url), extract_secrets(mask_url(url))) == url
    assert "sesame" not in redact(f"cannot connect to {url}")
