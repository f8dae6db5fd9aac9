"""`DATABASE_URL`: the servers that it names."""

from __future__ import annotations

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.control.db.connect import create_engine, servers_of


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
    assert servers_of(url) == servers


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a/b",
        "a/b",
        "postgresql://a:x/b",
        "postgresql://a:70000/b",
        "postgresql:///b?host=x,y&port=1,2,3",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_the_name_of_its_setting(url: str):
    with pytest.raises(InvalidRequest, match="DATABASE_URL"):
        create_engine(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_all_names_of_the_scheme_are_understood(scheme: str):
    await create_engine(f"{scheme}://ada@db.example/wrenn").dispose()
