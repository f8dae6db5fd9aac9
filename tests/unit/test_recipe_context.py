"""Build contexts: ignore rules, packing, reading hostile archives, and what a COPY selects."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrenn.base.errors import InvalidRequest
from wrenn.recipe import BaseConfig, Copy, parse_dockerfile
from wrenn.recipe.archive import ContextArchive, Selection
from wrenn.recipe.context import pack_context, read_ignore_rules
from wrenn.recipe.ignore import IgnoreRules
from wrenn.recipe.patterns import PatternError, compile_pattern


def copy(text: str) -> Copy:
    """Return the instruction that this line is."""
    (step,) = parse_dockerfile("FROM a\n" + text).plan(BaseConfig(workdir="/w")).steps
    assert isinstance(step, Copy)
    return step


def packed(folder: Path, ignore: str = "") -> ContextArchive:
    """Return the context of a folder as the server reads it."""
    out = io.BytesIO()
    pack_context(folder, out, IgnoreRules.parse(ignore))
    out.seek(0)
    return ContextArchive.open(out)


def tree(folder: Path, *names: str) -> Path:
    """Make files whose content is their name; a name with a slash at its end is a directory, `a -> b` a link."""
    for name in names:
        path = folder / name.partition(" -> ")[0]
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if " -> " in name:
            path.symlink_to(name.partition(" -> ")[2])
        elif not name.endswith("/"):
            path.write_text(name)
    return folder


def written(selection: Selection, *, is_directory: bool = False) -> dict[str, str]:
    """Return what a guest would have after unpacking: contents of files, targets of links, "/" for directories."""
    data = b"".join(selection.chunks(destination_is_directory=is_directory))
    top = selection.directory(destination_is_directory=is_directory)
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            text = file.read().decode() if file else (f"-> {member.linkname}" if member.issym() else "/")
            found[top.rstrip("/") + "/" + member.name] = text
    return found


# Docker's reference, ".dockerignore file", and moby/patternmatcher.
@pytest.mark.parametrize(
    ("rules", "ignored", "included"),
    [
        ("*/temp*", ["a/temp", "a/temporary.txt", "a/temp/b"], ["temp", "a/b/temp"]),
        ("*/*/temp*", ["a/b/tempx"], ["a/temp"]),
        ("temp?", ["tempa", "tempb"], ["temp", "tempab"]),
        ("**/*.go", ["a.go", "a/b.go", "a/b/c.go"], ["a.gob"]),
        ("*.md\n!README.md", ["a.md"], ["README.md", "a/b.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README-secret.md"]),
        (
            "# comment\n\n /foo/bar \nbaz/",
            ["foo/bar", "foo/bar/x", "baz", "baz/x"],
            ["bar", "x/baz", "# comment"],
        ),
        ("foo/**", ["foo/a", "foo/a/b"], ["foo", "a/foo/b"]),
        ("**/node_modules", ["node_modules", "a/node_modules/x"], ["node_modules2"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/c"], ["a/xb", "x/a/b"]),
        ("**.txt", [".txt", "a/.txt"], ["a.txt2"]),
        ("**\n!keep", ["a", "a/b"], ["keep", "keep/x"]),
        ("docs\n!docs/api", ["docs", "docs/a"], ["docs/api", "docs/api/x"]),
        ("[a-c].txt\n\\*x\nz[^0-9]", ["b.txt", "*x", "zz"], ["d.txt", "yx", "z1"]),
        (".", [], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_ignore_rules_are_those_of_docker(rules: str, ignored: list[str], included: list[str]) -> None:
    parsed = IgnoreRules.parse(rules)
    assert [path for path in ignored if not parsed.ignores(path)] == []
    assert [path for path in included if parsed.ignores(path)] == []


def test_the_ignore_file_of_a_dockerfile_is_used_instead_of_the_common_one(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("a")
    dockerfile = tmp_path / "web.Dockerfile"
    assert read_ignore_rules(tmp_path, dockerfile).ignores("a")
    (tmp_path / "web.Dockerfile.dockerignore").write_text("b")
    rules = read_ignore_rules(tmp_path, dockerfile)
    assert (rules.ignores("a"), rules.ignores("b")) == (False, True)
    assert not read_ignore_rules(tmp_path / "nothing").ignores("a")


@pytest.mark.parametrize("rules", ["!", "a\n[", "../a", "a[b-a]", "[?--]"])
def test_an_ignore_rule_that_is_not_valid_is_refused(rules: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^line \d: "):
        IgnoreRules.parse(rules)


@settings(max_examples=100, deadline=2_000)
@given(st.text(alphabet="ab*?[]!^-\\/.\n#", max_size=20), st.text(alphabet="ab/.", max_size=12))
def test_any_ignore_file_is_parsed_or_refused(text: str, path: str) -> None:
    with suppress(InvalidRequest):
        IgnoreRules.parse(text).ignores(path)


# The table of Go's path/filepath.
@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "ab", True),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "x", True),
        ("[x\\-]", "z", False),
        ("[b-a]", "a", False),
        ("*x", "xxx", True),
        ("**a**", "a", True),
        (".*", "ab", False),
    ],
)
def test_patterns_match_as_in_go(pattern: str, name: str, *, matches: bool) -> None:
    assert (compile_pattern(pattern).fullmatch(name) is not None) == matches


@pytest.mark.parametrize(
    "pattern", ["[]a]", "[-]", "[x-]", "[-x]", "a[", "[a-b-c]", "[", "[^", "[^bc", "a\\", "[]"]
)
def test_patterns_that_go_refuses_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


def test_a_pattern_that_nearly_matches_takes_no_time() -> None:
    pattern = compile_pattern("*a*a*a*a*a*a*a*b")
    began = time.process_time()
    for _ in range(100):
        assert pattern.fullmatch("a" * 255) is None
    assert time.process_time() - began < 1


@settings(max_examples=300, deadline=2_000)
@given(st.text(alphabet="ab*?[]^-\\", max_size=8), st.text(alphabet="ab-]", max_size=6))
def test_any_pattern_is_compiled_or_refused(pattern: str, name: str) -> None:
    with suppress(PatternError):
        compile_pattern(pattern).fullmatch(name)


def test_a_folder_is_packed_in_the_same_way_each_time(tmp_path: Path) -> None:
    tree(tmp_path, "b/c", "a", "empty/", "link -> ../elsewhere", ".git/x", "é\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "s"))
    os.mkfifo(tmp_path / "b" / "pipe")
    (tmp_path / "a").chmod(0o4755)
    os.link(tmp_path / "a", tmp_path / "z")
    first, second = io.BytesIO(), io.BytesIO()
    result = pack_context(tmp_path, first, IgnoreRules.parse(".git"))
    pack_context(tmp_path, second, IgnoreRules.parse(".git"))
    assert first.getvalue() == second.getvalue()
    assert result.left_out == ("b/pipe", "s")
    assert (result.entries, result.archive_b) == (7, len(first.getvalue()))
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as archive:
        members = {member.name: member for member in archive}
        assert list(members) == ["a", "b", "b/c", "empty", "link", "z", "é\n"]
        assert (members["a"].mode, members["a"].uid, members["a"].mtime) == (
            0o4755,
            0,
            int((tmp_path / "a").stat().st_mtime),
        )
        assert members["z"].isreg()
        assert members["link"].linkname == "../elsewhere"


def test_an_ignored_directory_is_packed_if_something_in_it_is_not_ignored(tmp_path: Path) -> None:
    tree(tmp_path, "docs/a/keep/x", "docs/b/y", "other/z")
    with packed(tmp_path, "docs\nother\n!docs/a/keep") as archive:
        assert sorted(written(archive.select(copy("COPY . /d")))) == [
            "/d/docs",
            "/d/docs/a",
            "/d/docs/a/keep",
            "/d/docs/a/keep/x",
        ]


def test_a_context_beyond_the_limits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(os.urandom(300_000))
    for name, value in (("MAX_ARCHIVE_B", 200_000), ("MAX_CONTEXT_B", 200_000), ("MAX_ENTRIES", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(f"wrenn.recipe.context.{name}", value)
            with pytest.raises(InvalidRequest, match=r"leave (files|some) out in \.dockerignore"):
                pack_context(tmp_path, io.BytesIO())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COPY a /x", {"/x": "a"}),
        ("COPY a /x/", {"/x/a": "a"}),
        ("COPY a .", {"/w/a": "a"}),
        ("COPY ./d/../a /", {"/a": "a"}),
        ("COPY d /x", {"/x/b": "d/b", "/x/e": "/", "/x/e/f.txt": "d/e/f.txt", "/x/l": "-> ../a"}),
        (
            "COPY d a /x/",
            {"/x/b": "d/b", "/x/e": "/", "/x/e/f.txt": "d/e/f.txt", "/x/l": "-> ../a", "/x/a": "a"},
        ),
        ("COPY d/* /x/", {"/x/b": "d/b", "/x/f.txt": "d/e/f.txt", "/x/l": "-> ../a"}),
        ("COPY d/*/*.txt /x", {"/x": "d/e/f.txt"}),
        ("COPY ?.none* a /x/", {"/x/a": "a"}),
        ("COPY *.none /x/", {}),
        ("COPY d/l /x", {"/x": "a"}),
        ("COPY top/e/f.txt /x", {"/x": "d/e/f.txt"}),
        ("COPY outside /x", {"/x": "a"}),
        ("COPY <<E /x\nhi\nE", {"/x": "hi\n"}),
        ("COPY a <<E /x/\nhi\nE", {"/x/a": "a", "/x/E": "hi\n"}),
    ],
)
def test_what_a_copy_writes(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    tree(
        tmp_path, "a", "d/b", "d/e/f.txt", "d/l -> ../a", "top -> d", "outside -> ../../../a", "loop -> loop"
    )
    with packed(tmp_path) as archive:
        assert written(archive.select(copy(text))) == expected


def test_a_file_goes_into_a_directory_that_the_guest_has(tmp_path: Path) -> None:
    with packed(tree(tmp_path, "a")) as archive:
        assert written(archive.select(copy("COPY a /x")), is_directory=True) == {"/x/a": "a"}


@pytest.mark.parametrize("source", ["nothing", "a/b", "loop", "dangling", "d/nothing"])
def test_a_source_that_the_context_lacks_is_refused_with_its_line(tmp_path: Path, source: str) -> None:
    tree(tmp_path, "a", "d/b", "loop -> loop", "dangling -> x")
    with (
        packed(tmp_path) as archive,
        pytest.raises(InvalidRequest, match=r"^line 2: the build context has no"),
    ):
        archive.select(copy(f"COPY {source} /x"))


def test_a_mode_is_applied_and_the_owner_is_root(tmp_path: Path) -> None:
    with packed(tree(tmp_path, "a")) as archive:
        data = b"".join(archive.select(copy("COPY --chmod=640 a /x")).chunks(destination_is_directory=False))
    with tarfile.open(fileobj=io.BytesIO(data)) as unpacked:
        (member,) = unpacked
        assert (member.mode, member.uid, member.gid) == (0o640, 0, 0)


def test_the_digest_depends_on_what_is_selected_and_not_on_times(tmp_path: Path) -> None:
    tree(tmp_path, "a", "d/b", "other")

    def digests() -> tuple[str, str]:
        with packed(tmp_path) as archive:
            return archive.select(copy("COPY a /x")).digest, archive.select(copy("COPY d /x")).digest

    first = digests()
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / "other").write_text("changed")
    assert digests() == first
    (tmp_path / "a").chmod(0o700)
    assert digests()[0] != first[0]
    (tmp_path / "d" / "b").rename(tmp_path / "d" / "c")
    assert digests()[1] != first[1]


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["tar", "gz", "bz2", "xz"]
)
def test_an_add_unpacks_local_archives(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        archive.add(tree(tmp_path / "src", "f", "g/h"), "src")
    (tmp_path / "x.bin").write_bytes(compress(inner.getvalue()))
    (tmp_path / "y.gz").write_bytes(gzip.compress(b"no archive"))
    with packed(tmp_path, "src") as context:
        unpacked = written(context.select(copy("ADD x.bin /d")))
        assert unpacked == {"/d/src": "/", "/d/src/f": "f", "/d/src/g": "/", "/d/src/g/h": "g/h"}
        assert list(written_names(context.select(copy("COPY x.bin /d")))) == ["d"]
        assert list(written_names(context.select(copy("ADD y.gz /d")))) == ["d"]


def written_names(selection: Selection) -> list[str]:
    """Return the names in the archive for a guest, whose contents are no text."""
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(selection.chunks(destination_is_directory=False)))
    ) as archive:
        return archive.getnames()


def archive_of(
    *members: tuple[str, bytes, str, bytes], pax: dict[str, str] | None = None, ends: bool = True
) -> io.BytesIO:
    """Return an archive of members (name, kind, link, content)."""
    out = bytearray()
    for name, kind, link, content in members:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content)
        info.pax_headers = pax or {}
        out += (
            info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)
            + content
            + bytes(-len(content) % 512)
        )
    return io.BytesIO(bytes(out) + bytes(1024 if ends else 0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive_of(("../a", b"0", "", b"")), "outside of its directory"),
        (archive_of(("/a", b"0", "", b"")), "outside of its directory"),
        (archive_of(("a/../../b", b"0", "", b"")), "outside of its directory"),
        (archive_of(("a", b"3", "", b"")), "'a' is a device or named pipe"),
        (archive_of(("a", b"6", "", b"")), "'a' is a device or named pipe"),
        (archive_of(("a", b"S", "", b"")), "'a' is of a kind that is not supported"),
        (archive_of(("a", b"1", "b", b"")), "'a' is a hard link to something that is not a file before it"),
        (
            archive_of(("l", b"2", "/etc", b""), ("a", b"1", "l", b"")),
            "'a' is a hard link to something that is not a file",
        ),
        (
            archive_of(("l", b"2", "/etc", b""), ("l/passwd", b"0", "", b"x")),
            "is below something that is not a directory",
        ),
        (archive_of(("d/a", b"0", "", b""), ("d", b"2", "/", b"")), "'d' is a directory and something else"),
        (archive_of(("a", b"2", "", b"")), "a link whose target is empty"),
        (archive_of(("a" * 256, b"0", "", b"")), "too long or too deep"),
        (archive_of(("a/" * 200, b"5", "", b"")), "too long or too deep"),
        (archive_of(("a", b"L", "", b"x" * 70_000)), "too much metadata"),
        (archive_of(("a", b"x", "", b"99 path=b\n")), "extended metadata is not valid"),
        (archive_of(("a", b"x", "", b"0 a=b\n")), "extended metadata is not valid"),
        (archive_of(("a", b"0", "", b""), pax={"GNU.sparse.major": "1"}), "a file with holes"),
        (archive_of(("a", b"0", "", b""), pax={"size": "99999999999"}), "it is cut off"),
        (archive_of(("a", b"0", "", b""), pax={"size": "9" * 30}), "a number that is none"),
        (archive_of(("a", b"0", "", b"x"), ends=False), "it has no end mark"),
        (io.BytesIO(b""), "it has no end mark"),
        (io.BytesIO(b"x" * 1024), "a number that is none"),
        (io.BytesIO(b"\x1f\x8b" + b"x" * 100), "not one of tar, gzip"),
        (io.BytesIO(gzip.compress(bytes(1024))[:-9]), "it is cut off"),
        (io.BytesIO(gzip.compress(b"") * 1_001), "more than 1000 compressed parts"),
        (io.BytesIO(b"BZhxxxx"), "not one of tar, gzip"),
    ],
)
def test_archives_that_are_refused(data: io.BytesIO, message: str) -> None:
    data.seek(0)
    with pytest.raises(InvalidRequest, match=message):
        ContextArchive.open(data)


def test_hard_links_are_files_and_directories_are_implied() -> None:
    data = archive_of(("./d/a", b"0", "", b"text"), ("b", b"1", "d/a", b""), ("d/a", b"0", "", b"new"))
    with ContextArchive.open(data) as archive:
        assert written(archive.select(copy("COPY . /x"))) == {"/x/d": "/", "/x/d/a": "new", "/x/b": "text"}


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrenn.recipe.archive.MAX_UNPACKED_B", 1 << 20)
    with pytest.raises(InvalidRequest, match="unpacked"):
        ContextArchive.open(io.BytesIO(gzip.compress(bytes(2 << 20))))
    monkeypatch.setattr("wrenn.recipe.tar_index.MAX_ENTRIES", 10)
    with pytest.raises(InvalidRequest, match="more than 10 entries"):
        ContextArchive.open(archive_of(*((f"a{n}", b"0", "", b"") for n in range(11))))
    with pytest.raises(InvalidRequest, match="more than 10 entries"):
        ContextArchive.open(archive_of(*(("a", b"0", "", b"") for _ in range(21))))
    monkeypatch.setattr("wrenn.recipe.tar_index.MAX_CONTEXT_B", 1 << 20)
    links = [(f"l{n}", b"1", "a", b"") for n in range(3)]
    with pytest.raises(InvalidRequest, match="of files"):
        ContextArchive.open(archive_of(("a", b"0", "", bytes(400_000)), *links))


def test_long_paths_take_little_memory() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(5000):
            member = tarfile.TarInfo("/".join([*(["d" * 250] * 15), str(number)]))
            archive.addfile(member)
    out.seek(0)
    with pytest.raises(InvalidRequest, match="more than 16 MiB of paths"):
        ContextArchive.open(out)


def test_work_is_bounded_over_all_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrenn.recipe.archive._MAX_WORK", 100)
    with (
        ContextArchive.open(archive_of(*((f"a{n}", b"0", "", b"") for n in range(40)))) as archive,
        pytest.raises(InvalidRequest, match="looks at too many files"),
    ):
        archive.select(copy("COPY a* a* a* /x/"))


def test_a_bomb_in_an_archive_of_an_add_is_refused_with_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrenn.recipe.archive.MAX_UNPACKED_B", 1 << 20)
    inner = archive_of(("a", b"0", "", bytes(2 << 20))).getvalue()
    with (
        ContextArchive.open(archive_of(("x.tgz", b"0", "", gzip.compress(inner)))) as archive,
        pytest.raises(InvalidRequest, match=r"^line 2: The archive is larger"),
    ):
        archive.select(copy("ADD x.tgz /x"))


def test_a_context_that_was_not_uploaded_has_no_files() -> None:
    with ContextArchive.empty() as archive:
        assert written(archive.select(copy("COPY <<E /x\nhi\nE"))) == {"/x": "hi\n"}
        with pytest.raises(InvalidRequest, match=r"^line 2: the build context has no 'a'"):
            archive.select(copy("COPY a /x"))


_VALID = archive_of(
    ("d/a", b"0", "", b"text"), ("l", b"2", "d", b""), ("x" * 120, b"0", "", b"y"), pax={"comment": "é"}
).getvalue()


@settings(max_examples=300, deadline=2_000)
@given(st.lists(st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)), max_size=6), st.booleans())
def test_any_damage_is_refused_or_harmless(changes: list[tuple[int, int]], checksums: bool) -> None:
    data = bytearray(_VALID)
    for position, value in changes:
        data[position] = value
    if checksums:
        # So that the damage reaches what is behind the checksum.
        for start in range(0, len(data) - 1024, 512):
            block = data[start : start + 512]
            total = sum(block) - sum(block[148:156]) + 8 * 0x20
            data[start + 148 : start + 156] = b"%06o\0 " % total
    with suppress(InvalidRequest), ContextArchive.open(io.BytesIO(bytes(data))) as archive:
        b"".join(archive.select(copy("COPY . /x")).chunks(destination_is_directory=True))
