"""Secrets do not stand in texts, whoever wrote them."""

import pytest

from whet.redact import secret_values, without_secrets

CANARY = "hf_CANARYcanary"
ENVIRONMENT = {
    "HF_TOKEN": CANARY, "WANDB_API_KEY": "0123456789abcdef", "WHET_SERVE_TOKEN": "serve-token-1", "HOME": "/root",
    "AWS_SECRET_ACCESS_KEY": "aws/secret/key", "TOKENIZERS_PARALLELISM": "false", "HF_TOKEN_PATH": "/home/ada/token",
    "DB_PASSWORD": "correct horse", "KEYBOARD": "qwertyuiop",
}  # fmt: skip


def test_only_what_is_named_like_a_secret_is_one():
    names = ("HF_TOKEN", "WANDB_API_KEY", "WHET_SERVE_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD")
    assert secret_values(ENVIRONMENT) == {ENVIRONMENT[name] for name in names}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for Bearer {CANARY}", "401 for Bearer ***"),
        ("GET https://ada:pw@hub.example/api failed", "GET https://***@hub.example/api failed"),
        ("proxy 'http://user@proxy:3128'", "proxy 'http://***@proxy:3128'"),
        (f"https://{CANARY}@hub.example", "https://***@hub.example"),
        ("mail ada@example.org, https://example.org/@ada", "mail ada@example.org, https://example.org/@ada"),
    ],
)
def test_values_and_user_info_are_hidden_and_the_rest_stays(text, shown):
    assert without_secrets(text, ENVIRONMENT) == shown
