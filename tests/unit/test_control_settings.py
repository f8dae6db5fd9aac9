"""The control plane's settings and what is said of a wrong one."""

from __future__ import annotations

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.control.settings import Settings


def test_defaults_are_one_machine():
    settings = Settings.from_environment({})
    assert settings.database_url is None
    assert (settings.listen_host, settings.listen_port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("WRENN_LISTEN", "8000"),
        ("WRENN_LISTEN", "host:port"),
        ("WRENN_LISTEN", "host:99999"),
        ("WRENN_MAX_VCPUS", "many"),
        ("WRENN_MEMORY_OVERCOMMIT", "0"),
        ("WRENN_LEASE_S", "nan"),
        ("WRENN_LEASE_S", "-1"),
        ("WRENN_SIGNUP", "maybe"),
        ("WRENN_JWT_SECRET", "too short"),
        ("WRENN_PUBLIC_URL", "wrenn.example"),
        ("WRENN_TRUSTED_PROXIES", "10.0.0.1, the proxy"),
        ("WRENN_SESSION_DAYS", "0"),
        ("WRENN_OIDC_CORP_DISCOVERY_URL", "http://corp.example/.well-known/openid-configuration"),
        ("WRENN_OIDC_CORP_DISCOVERY_URL", "https://corp.example/"),
        ("OAUTH_GITHUB_CLIENT_ID", "without a secret"),
    ],
)
def test_a_bad_value_names_its_setting(name: str, text: str):
    with pytest.raises(InvalidRequest, match=name.removesuffix("_ID")):
        Settings.from_environment({name: text})


SMTP = {
    "WRENN_PUBLIC_URL": "https://wrenn.example",
    "WRENN_SMTP_HOST": "mail.example",
    "WRENN_SMTP_FROM": "Wrenn <wrenn@example.com>",
}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"WRENN_PUBLIC_URL": ""}, "WRENN_PUBLIC_URL"),
        ({"WRENN_SMTP_HOST": ""}, "WRENN_SMTP_HOST"),
        ({"WRENN_SMTP_HOST": "https://mail.example"}, "WRENN_SMTP_HOST"),
        ({"WRENN_SMTP_FROM": ""}, "WRENN_SMTP_FROM"),
        ({"WRENN_SMTP_FROM": "nobody"}, "WRENN_SMTP_FROM"),
        ({"WRENN_SMTP_FROM": "a@b.example\r\nBcc: c@d.example"}, "WRENN_SMTP_FROM"),
        ({"WRENN_SMTP_PORT": "0"}, "WRENN_SMTP_PORT"),
        ({"WRENN_SMTP_PORT": "smtp"}, "WRENN_SMTP_PORT"),
        ({"WRENN_SMTP_TLS": "ssl"}, "WRENN_SMTP_TLS"),
        ({"WRENN_SMTP_USER": "wrenn"}, "WRENN_SMTP_USER"),
        ({"WRENN_SMTP_PASSWORD": "s3cret"}, "WRENN_SMTP_USER"),
        (
            {"WRENN_SMTP_USER": "wrenn", "WRENN_SMTP_PASSWORD_FILE": "/does/not/exist"},
            "WRENN_SMTP_PASSWORD_FILE",
        ),
        (
            {
                "WRENN_SMTP_USER": "w",
                "WRENN_SMTP_PASSWORD": "s3cret",
                "WRENN_SMTP_PASSWORD_FILE": "/dev/null",
            },
            "WRENN_SMTP_PASSWORD_FILE",
        ),
        (
            {"WRENN_SMTP_USER": "w", "WRENN_SMTP_PASSWORD": "s3cret", "WRENN_SMTP_TLS": "none"},
            "WRENN_SMTP_TLS",
        ),
    ],
)
def test_a_bad_mail_setting_is_named_and_the_password_is_not(changed: dict[str, str], named: str):
    with pytest.raises(InvalidRequest, match=named) as refusal:
        Settings.from_environment({**SMTP, **changed})
    assert "s3cret" not in refusal.value.message


def test_mail_has_the_usual_port_of_its_encryption():
    assert Settings.from_environment({}).mail is None
    for tls, port in (("", 587), ("starttls", 587), ("tls", 465), ("none", 25)):
        mail = Settings.from_environment({**SMTP, "WRENN_SMTP_TLS": tls}).mail
        assert mail is not None
        assert (mail.port, mail.sender.name, mail.sender.address) == (port, "Wrenn", "wrenn@example.com")


def test_an_ipv6_address_is_bracketed():
    assert Settings.from_environment({"WRENN_LISTEN": "[::1]:80"}).listen_host == "::1"
