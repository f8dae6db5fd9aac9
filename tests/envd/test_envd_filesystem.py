"""`filesystem.Filesystem` as the contract has it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from guest_kit import END_FLAG, Answer, Envd, Json, basic

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")


def call(envd: Envd, method: str, **message: Any) -> Answer:
    return envd.call(f"filesystem.Filesystem/{method}", message)


def code(answer: Answer) -> str:
    return answer.json()["code"]


def events(envd: Envd, watcher: str) -> list[tuple[str, str]]:
    answer = call(envd, "GetWatcherEvents", watcherId=watcher).json()
    return [(e["name"], e["type"].removeprefix("EVENT_TYPE_")) for e in answer.get("events", [])]


def watch(envd: Envd, path: Path, **options: bool) -> str:
    return call(envd, "CreateWatcher", path=str(path), **options).json()["watcherId"]


def test_stat_reports_everything_about_a_file(envd: Envd, place: Path) -> None:
    file = place / "a.txt"
    file.write_bytes(b"12345")
    file.chmod(0o640)
    entry = call(envd, "Stat", path=str(file)).json()["entry"]
    assert entry["name"] == "a.txt"
    assert entry["type"] == "FILE_TYPE_FILE"
    assert entry["path"] == str(file)
    assert entry["size"] == "5"
    assert entry["mode"] == 0o640
    assert entry["permissions"] == "-rw-r-----"
    assert entry["owner"] == file.owner()
    assert entry["group"] == file.group()
    assert entry["modifiedTime"].endswith("Z") or "+00:00" in entry["modifiedTime"]
    assert "symlinkTarget" not in entry


def test_a_link_is_reported_with_its_target(envd: Envd, place: Path) -> None:
    (place / "dir").mkdir(mode=0o755)
    (place / "link").symlink_to("dir")
    (place / "dangling").symlink_to("nowhere")
    entry = call(envd, "Stat", path=str(place / "link")).json()["entry"]
    assert (entry["type"], entry["isSymlink"]) == ("FILE_TYPE_DIRECTORY", True)
    assert entry["permissions"] == "Lrwxrwxrwx"
    assert entry["symlinkTarget"] == str(place / "dir")
    entry = call(envd, "Stat", path=str(place / "dangling")).json()["entry"]
    assert entry.get("type", "FILE_TYPE_UNSPECIFIED") == "FILE_TYPE_UNSPECIFIED"


def test_what_is_missing_is_not_found(envd: Envd, place: Path) -> None:
    missing = str(place / "missing")
    assert code(call(envd, "Stat", path=missing)) == "not_found"
    assert code(call(envd, "ListDir", path=missing)) == "not_found"
    assert code(call(envd, "Move", source=missing, destination=missing + "2")) == "not_found"
    assert code(call(envd, "CreateWatcher", path=missing)) == "not_found"
    assert call(envd, "Remove", path=missing).json() == {}


def test_making_a_directory_twice_is_already_exists(envd: Envd, place: Path) -> None:
    assert call(envd, "MakeDir", path=str(place / "a/b/c")).json()["entry"]["type"] == "FILE_TYPE_DIRECTORY"
    assert code(call(envd, "MakeDir", path=str(place / "a/b/c"))) == "already_exists"
    (place / "file").touch()
    assert code(call(envd, "MakeDir", path=str(place / "file"))) == "invalid_argument"


def test_a_move_makes_the_parents_of_its_destination(envd: Envd, place: Path) -> None:
    (place / "from").write_text("x")
    entry = call(envd, "Move", source=str(place / "from"), destination=str(place / "p/q/to")).json()["entry"]
    assert entry["path"] == str(place / "p/q/to")
    assert (place / "p/q/to").read_text() == "x"
    assert not (place / "from").exists()


def test_a_list_is_in_lexical_order_to_its_depth(envd: Envd, place: Path) -> None:
    for name in ("b/2/x", "b/1", "a", "c"):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def names(depth: int) -> list[str]:
        entries = call(envd, "ListDir", path=str(place), depth=depth).json()["entries"]
        return [str(Path(e["path"]).relative_to(place)) for e in entries]

    assert names(0) == names(1) == ["a", "b", "c"]
    assert names(2) == ["a", "b", "b/1", "b/2", "c"]
    assert names(9) == ["a", "b", "b/1", "b/2", "b/2/x", "c"]
    assert code(call(envd, "ListDir", path=str(place / "a"))) == "invalid_argument"
    (place / "link").symlink_to("b")
    assert len(call(envd, "ListDir", path=str(place / "link")).json()["entries"]) == 2


def test_remove_takes_a_whole_directory_and_no_link_target(envd: Envd, place: Path) -> None:
    (place / "tree/x").mkdir(parents=True)
    (place / "kept").mkdir()
    (place / "tree/link").symlink_to(place / "kept")
    (place / "kept/file").touch()
    assert call(envd, "Remove", path=str(place / "tree")).status == 200
    assert not (place / "tree").exists()
    assert (place / "kept/file").exists()
    assert code(call(envd, "Remove", path="/")) == "invalid_argument"


@pytest.mark.parametrize("name", [b"new\nline", "grün €".encode(), b"\xff\xfe broken", b"half \xe2\x82"])
def test_every_name_comes_back_the_same(envd: Envd, place: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(place), name)  # noqa: PTH118 - bytes
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"content")
    (entry,) = call(envd, "ListDir", path=str(place)).json()["entries"]
    assert call(envd, "Stat", path=entry["path"]).json()["entry"] == entry
    assert envd.read(entry["path"]).body == b"content"
    assert call(envd, "Remove", path=entry["path"]).status == 200
    assert not os.path.lexists(path)


def test_paths_that_are_no_paths_are_invalid_arguments(envd: Envd, place: Path) -> None:
    assert code(call(envd, "Stat", path="a\0b")) == "invalid_argument"
    assert code(call(envd, "Stat", path=str(place / ("x" * 300)))) == "invalid_argument"
    assert code(call(envd, "Stat", path="/" + "x/" * 5000)) == "invalid_argument"


@needs_root
def test_a_user_may_only_what_the_user_may(envd: Envd, place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "secret").write_text("x")
    for method, message in {
        "Stat": {"path": str(closed / "secret")},
        "MakeDir": {"path": str(closed / "new")},
        "ListDir": {"path": str(closed)},
        "Remove": {"path": str(closed / "secret")},
        "Move": {"source": str(closed / "secret"), "destination": str(place / "mine")},
        "CreateWatcher": {"path": str(closed)},
    }.items():
        answer = envd.call(f"filesystem.Filesystem/{method}", message, basic("nobody"))
        assert (method, answer.status, code(answer)) == (method, 403, "permission_denied")
    assert (closed / "secret").exists()
    made = envd.call("filesystem.Filesystem/MakeDir", {"path": str(place / "own")}, basic("nobody"))
    assert made.json()["entry"]["owner"] == "nobody"


def test_one_new_file_makes_three_events(envd: Envd, place: Path) -> None:
    watcher = watch(envd, place)
    assert envd.write(place / "new.txt", b"content").status == 200
    assert events(envd, watcher) == [("new.txt", "CREATE"), ("new.txt", "CHMOD"), ("new.txt", "WRITE")]
    assert events(envd, watcher) == []


def test_a_directory_just_made_is_watched_before_the_next_write(envd: Envd, place: Path) -> None:
    watcher = watch(envd, place, recursive=True)
    for n in range(20):
        call(envd, "MakeDir", path=str(place / f"d{n}"))
        envd.write(place / f"d{n}/f", b"x")
        assert events(envd, watcher) == [
            (f"d{n}", "CREATE"), (f"d{n}/f", "CREATE"), (f"d{n}/f", "CHMOD"), (f"d{n}/f", "WRITE"),
        ]  # fmt: skip


def test_what_a_process_makes_in_a_new_directory_is_seen(envd: Envd, place: Path) -> None:
    watcher = watch(envd, place, recursive=True)
    envd.shell(f"mkdir -p {place}/a/b/c && echo x > {place}/a/b/c/file")
    assert ("a/b/c/file", "CREATE") in events(envd, watcher)


def test_moves_and_removals_are_reported(envd: Envd, place: Path) -> None:
    (place / "a").touch()
    watcher = watch(envd, place)
    call(envd, "Move", source=str(place / "a"), destination=str(place / "b"))
    (place / "b").chmod(0o600)
    call(envd, "Remove", path=str(place / "b"))
    seen = events(envd, watcher)
    assert seen[:3] == [("a", "RENAME"), ("b", "CREATE"), ("b", "CHMOD")]
    assert seen[-1] == ("b", "REMOVE")


def test_an_event_contains_its_file_on_request(envd: Envd, place: Path) -> None:
    watcher = watch(envd, place, includeEntry=True)
    envd.write(place / "f", b"12")
    (created, *_) = call(envd, "GetWatcherEvents", watcherId=watcher).json()["events"]
    assert created["entry"]["path"] == str(place / "f")


def test_a_watcher_ends_when_it_is_removed(envd: Envd, place: Path) -> None:
    watcher = watch(envd, place)
    assert call(envd, "RemoveWatcher", watcherId=watcher).json() == {}
    assert code(call(envd, "RemoveWatcher", watcherId=watcher)) == "not_found"
    assert code(call(envd, "GetWatcherEvents", watcherId=watcher)) == "not_found"


def test_a_file_that_is_replaced_in_a_directory_that_was_moved_in_is_reported(
    envd: Envd, place: Path
) -> None:
    root, prepared = place / "root", place / "prepared"
    root.mkdir()
    (prepared / "d").mkdir(parents=True)
    (prepared / "d/f").write_text("old")
    watcher = watch(envd, root, recursive=True)
    (prepared / "d").rename(root / "d")
    assert ("d/f", "CREATE") in events(envd, watcher)
    (root / "g").write_text("new")
    events(envd, watcher)
    (root / "g").rename(root / "d/f")
    assert events(envd, watcher) == [("g", "RENAME"), ("d/f", "CREATE")]


def test_forgotten_watchers_give_way_to_new_ones(envd: Envd, place: Path) -> None:
    watchers = [watch(envd, place) for _ in range(300)]
    assert code(call(envd, "GetWatcherEvents", watcherId=watchers[0])) == "not_found"
    (place / "f").touch()
    assert ("f", "CREATE") in events(envd, watchers[-1])
    # A watcher that is asked is not the first to end.
    for _ in range(256):
        watch(envd, place)
        assert call(envd, "GetWatcherEvents", watcherId=watchers[-1]).status == 200


def test_a_file_cannot_be_watched(envd: Envd, place: Path) -> None:
    (place / "f").touch()
    assert code(call(envd, "CreateWatcher", path=str(place / "f"))) == "invalid_argument"


def test_a_stream_of_events_begins_with_start(envd: Envd, place: Path) -> None:
    headers = {"Connect-Timeout-Ms": "3000"}
    stream = envd.stream("filesystem.Filesystem/WatchDir", {"path": str(place), "recursive": True}, headers)
    assert stream.next() == {"start": {}}
    envd.write(place / "f", b"x")
    seen: list[Json] = []
    for flags, message in stream.frames():
        if flags & END_FLAG:
            assert message["error"]["code"] == "deadline_exceeded"
        else:
            seen.append(message["filesystem"])
    stream.close()
    assert [e["name"] for e in seen] == ["f", "f", "f"]
    assert json.dumps(seen).count("EVENT_TYPE_CREATE") == 1
