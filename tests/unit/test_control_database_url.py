"""`DATABASE_URL`: the servers that it names."""

from __future__ import annotations

import traceback
from urllib.parse import unquote, urlsplit

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.control.db.connect import create_engine, libpq_url, servers_of


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("postgresql:///wrenn", []),
        ("postgresql://ada@db.example/wrenn", [("db.example", 5432)]),
        ("postgresql://ada:p%40:x@db.example:6000/wrenn", [("db.example", 6000)]),
        (
            "postgresql://a:1,b,[::1]:3,[fd00::1]/wrenn",
            [("a", 1), ("b", 5432), ("::1", 3), ("fd00::1", 5432)],
        ),
        ("postgresql://ada@/wrenn?host=%2Frun%2Fpg", [("/run/pg", 5432)]),
        ("postgresql://ada@%2Frun%2Fpg/wrenn", [("/run/pg", 5432)]),
        ("postgresql:///wrenn?host=/a,/b&port=1,2", [("/a", 1), ("/b", 2)]),
        ("postgresql:///wrenn?host=a,b&port=6000", [("a", 6000), ("b", 6000)]),
    ],
)
def test_the_servers_of_a_url_are_found_as_libpq_does(url: str, servers: list[tuple[str, int]]):
    assert servers_of(libpq_url(url)) == servers


@pytest.mark.parametrize(
    "password", ["p/w", "p?w", "p#w", "p[w", "p@w", "12/w", "p/?#w:x", "/w", "p%", "p%2Fw", "p w+ü"]
)
def test_a_password_need_not_be_escaped(password: str):
    url = libpq_url(f"postgresql+asyncpg://ada:{password}@db.example:6000/wrenn?application_name=a@b")
    parts = urlsplit(url)
    assert (parts.username, unquote(parts.password or "")) == ("ada", unquote(password))
    assert (parts.netloc.count("@"), parts.path, parts.query) == (1, "/wrenn", "application_name=a%40b")
    assert servers_of(url) == [("db.example", 6000)]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgresql+asyncpg://a:p@b/c?ssl=require", "postgresql://a:p@b/c?sslmode=require"),
        ("postgresql://b/c?ssl=disable&sslmode=require", "postgresql://b/c?sslmode=require"),
        ("postgresql://b/c?prepared_statement_cache_size=0", "postgresql://b/c"),
        ("postgresql://b:1/c?user=d@e", "postgresql://b:1/c?user=d%40e"),
        ("postgresql://b:1,f/c?user=d@e", "postgresql://b:1,f/c?user=d%40e"),
        ("postgresql:///c#d", "postgresql:///c%23d"),
    ],
)
def test_what_only_sqlalchemy_knows_is_translated(given: str, read: str):
    assert libpq_url(given) == read


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a/b",
        "a/b",
        "postgresql://a:x/b",
        "postgresql://a:70000/b",
        "postgresql:///b?host=x,y&port=1,2,3",
        "postgresql://ada:secret@[::1/b",
        "postgresql://ada:secret@x/b?secret",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_the_name_of_its_setting(url: str):
    with pytest.raises(InvalidRequest, match="DATABASE_URL") as refusal:
        create_engine(url)
    assert "secret" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_all_names_of_the_scheme_are_understood(scheme: str):
    await create_engine(f"{scheme}://ada@db.example/wrenn").dispose()
