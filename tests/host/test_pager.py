"""The page-fault server (rust/pager) with a program whose memory it fills. With Firecracker: tests/kvm."""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from wrenn.base.units import PAGE_B

ROOT = Path(__file__).resolve().parents[2]
PAGER = ROOT / "rust/target/x86_64-unknown-linux-gnu/release/pager"
PROGRAM = Path(__file__).with_name("faulting_program.py")
PAGES = 600
_TIMEOUT_S = 20.0


@dataclass
class Image:
    """What a VM's memory contains."""

    file: Path
    content: NDArray[np.uint8]
    diff: Path | None = None
    order: Path | None = None

    def digest(self, pages: list[int]) -> str:
        return hashlib.sha256(b"".join(self.content[page].tobytes() for page in pages)).hexdigest()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Every second run of 50 pages has data, the others are a hole."""
    content = np.zeros((PAGES, PAGE_B), dtype=np.uint8)
    path = tmp_path / "memory"
    with path.open("wb") as file:
        file.truncate(PAGES * PAGE_B)
        for first in range(0, PAGES, 100):
            content[first : first + 50] = np.frombuffer(os.urandom(50 * PAGE_B), dtype=np.uint8).reshape(
                50, -1
            )
            file.seek(first * PAGE_B)
            file.write(content[first : first + 50].tobytes())
    return Image(path, content)


def with_diff(image: Image, runs: list[tuple[int, int, bool]]) -> Image:
    """Put a diff over the image: first page, number of pages, whether they are zero."""
    content = image.content.copy()
    rows: list[tuple[int, int, int]] = []
    data = b""
    for page, count, zeros in runs:
        rows.append((page, count, 0xFFFFFFFF if zeros else len(data) // PAGE_B))
        new = bytes(count * PAGE_B) if zeros else os.urandom(count * PAGE_B)
        content[page : page + count] = np.frombuffer(new, dtype=np.uint8).reshape(count, -1)
        data += b"" if zeros else new
    size = len(data) // PAGE_B
    chunk = struct.pack("<2IQ", 0, size, xxhash.xxh3_64_intdigest(data)) if size else b""
    header = struct.pack(
        "<8s6Q", b"WRNNMEM1", PAGE_B, PAGES, size, len(rows), bool(size), (size + 1) * PAGE_B
    )
    tables = b"".join(struct.pack("<3I", *row) for row in rows) + chunk
    path = image.file.with_name("diff")
    path.write_bytes((header + xxhash.xxh3_128_digest(header + tables)).ljust(PAGE_B, b"\0") + data + tables)
    return Image(image.file, content, path)


@dataclass
class Vmm:
    """The program whose memory is filled."""

    process: subprocess.Popen[str]

    def answer(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], _TIMEOUT_S)
        assert ready, "it hangs"
        return self.process.stdout.readline().strip()

    def ask(self, *command: object) -> None:
        assert self.process.stdin is not None
        print(*command, file=self.process.stdin, flush=True)

    def read(self, pages: list[int]) -> str:
        self.ask("read", *pages)
        return self.answer()


@contextmanager
def served(
    image: Image, *arguments: str, regions: str = f"{PAGES}", message: str = "", record: Path | None = None
) -> Generator[tuple[subprocess.Popen[str], Vmm]]:
    """A server, and a program that it serves."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        place = image.file.with_name("uffd.sock")
        place.unlink(missing_ok=True)
        listener.bind(str(place))
        listener.listen(1)
        argv = [str(PAGER), "--socket", str(listener.fileno())]
        fds = [listener.fileno()]
        files = {"--image": image.file, "--diff": image.diff, "--order": image.order}
        for name, path in files.items():
            if path is not None:
                fds.append(stack.enter_context(path.open("rb")).fileno())
                argv += [name, str(fds[-1])]
        if record is not None:
            fds.append(stack.enter_context(record.open("ab")).fileno())
            argv += ["--record", str(fds[-1])]
        pager = subprocess.Popen([*argv, *arguments], pass_fds=fds, stderr=subprocess.PIPE, text=True, env={})
        stack.callback(_end, pager)
        vmm = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(place), regions, message],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(_end, vmm)
        yield pager, Vmm(vmm)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=_TIMEOUT_S)


def ended(pager: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and last words."""
    _, words = pager.communicate(timeout=_TIMEOUT_S)
    return pager.returncode, words.strip()


def figures(words: str) -> dict[str, int]:
    return {name: int(value) for name, value in (pair.split("=") for pair in words.split() if "=" in pair)}


def everything(seed: int) -> list[int]:
    pages = list(range(PAGES))
    random.Random(seed).shuffle(pages)
    return pages


@pytest.mark.parametrize("chunk_pages", [1, 16, 512])
def test_memory_is_that_of_the_image_whatever_is_touched_first(image: Image, chunk_pages: int) -> None:
    image = with_diff(
        image, [(590, 10, False), (45, 10, False), (120, 40, True), (0, 1, True), (160, 1, False)]
    )
    pages = everything(chunk_pages)
    with served(image, "--chunk-pages", str(chunk_pages), regions=f"{PAGES - 100},100") as (pager, vmm):
        assert vmm.answer() == "sent"
        assert vmm.read(pages) == image.digest(pages)
        assert vmm.read(pages[:50]) == image.digest(pages[:50])
        vmm.process.kill()
        code, words = ended(pager)
    assert code == 0
    counts = figures(words)
    assert counts["pages_filled_by_faults"] == PAGES
    assert counts["faults"] <= -(-PAGES // chunk_pages) + 2
    assert counts["pages_filled_before"] == 0


def test_pages_that_were_given_back_are_zero(image: Image) -> None:
    with served(image) as (_, vmm):
        assert vmm.answer() == "sent"
        assert vmm.read([1, 2, 30]) == image.digest([1, 2, 30])
        vmm.ask("remove", 0, 32)
        assert vmm.answer() == "removed"
        zeros = hashlib.sha256(bytes(3 * PAGE_B)).hexdigest()
        assert vmm.read([1, 2, 31]) == zeros
        # A page that the VM has never had is given back too.
        vmm.ask("remove", 200, 5)
        assert vmm.answer() == "removed"
        assert vmm.read([200, 203, 204]) == zeros
        assert vmm.read([205]) == image.digest([205])
        vmm.ask("write", 1)
        assert vmm.answer() == "written"
        assert vmm.read([1]) == hashlib.sha256(b"\xee" * PAGE_B).hexdigest()


def test_memory_is_served_although_the_order_cannot_be_recorded(image: Image) -> None:
    pages = everything(3)
    with served(image, "--chunk-pages", "1", record=Path("/dev/full")) as (pager, vmm):
        assert vmm.answer() == "sent"
        # Pages that are waited for one after the other: the record is written each time that nothing is waited for.
        assert vmm.read(pages[:5]) == image.digest(pages[:5])
        assert vmm.read(pages) == image.digest(pages)
        vmm.process.kill()
        code, words = ended(pager)
    assert code == 0
    assert words.count("not recorded") == 1, words
    assert figures(words)["pages_filled_by_faults"] == PAGES


def test_what_was_needed_once_is_there_before_it_is_needed_again(image: Image, tmp_path: Path) -> None:
    record = tmp_path / "order"
    record.touch()
    pages = [5, 310, 17, 402, 100, 131, 599, 64]
    with served(image, record=record) as (pager, vmm):
        assert vmm.answer() == "sent"
        assert vmm.read(pages) == image.digest(pages)
        vmm.process.kill()
        assert ended(pager)[0] == 0
    assert list(np.frombuffer(record.read_bytes(), dtype="<u4")) == pages
    # A page that the memory does not have is left out.
    record.write_bytes(record.read_bytes() + struct.pack("<I", PAGES) + b"x")
    with served(Image(image.file, image.content, order=record)) as (pager, vmm):
        assert vmm.answer() == "sent"
        # Until everything was filled.
        assert vmm.read([500]) == image.digest([500])
        for _ in range(100):
            select.select([], [], [], 0.01)
        assert vmm.read(pages) == image.digest(pages)
        vmm.process.kill()
        counts = figures(ended(pager)[1])
    assert counts["faults"] == 1
    assert counts["pages_filled_before"] >= 8 * 8


def test_a_diff_that_was_damaged_ends_the_server(image: Image) -> None:
    image = with_diff(image, [(10, 20, False)])
    assert image.diff is not None
    with image.diff.open("r+b") as file:
        file.seek(5 * PAGE_B)
        file.write(b"other")
    with served(image) as (pager, vmm):
        assert vmm.answer() == "sent"
        vmm.ask("read", 10)
        assert ended(pager) == (1, "pager: the memory diff is damaged at its page 0")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no descriptor", "not one with a descriptor"),
        ("[]", "0 mappings"),
        ("{", "cannot be read"),
        ('[{"base_host_virt_addr": 4096, "size": 4096000, "offset": 4096000}]', "not those of this memory"),
        ("[" * 20_000, "not one with a descriptor"),
        ("other descriptor", ""),
    ],
    ids=["no descriptor", "no mapping", "no text", "outside", "too long", "other descriptor"],
)
def test_a_hostile_vmm_ends_its_own_server_alone(image: Image, message: str, reason: str) -> None:
    with served(image, message=message) as (pager, vmm):
        assert vmm.answer() == "sent"
        if message == "other descriptor":
            vmm.process.kill()
        code, words = ended(pager)
    assert code == (0 if message == "other descriptor" else 1)
    assert reason in words
    assert len(words.splitlines()) == 1


@pytest.mark.parametrize("size_b", [0, 100, PAGE_B + 1])
def test_an_image_of_another_size_is_refused(image: Image, size_b: int) -> None:
    os.truncate(image.file, size_b)
    with served(image) as (pager, _):
        code, words = ended(pager)
    assert code == 1
    assert "memory image cannot be used" in words


def test_a_diff_that_is_none_is_refused(image: Image) -> None:
    other = with_diff(image, [])
    assert other.diff is not None
    other.diff.write_bytes(b"WRNNMEM1" + bytes(4096))
    with served(other) as (pager, _):
        code, words = ended(pager)
    assert (code, words) == (1, "pager: the memory diff is not one of this version")


def test_it_can_do_nothing_but_its_work(image: Image) -> None:
    """One that is taken over finds a filter of system calls, and little memory of its own."""
    with served(image) as (pager, vmm):
        assert vmm.answer() == "sent"
        assert vmm.read([0]) == image.digest([0])
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{pager.pid}/status").read_text().splitlines()
        )
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        assert status["Threads"] == "1"
        rollup = Path(f"/proc/{pager.pid}/smaps_rollup").read_text()
        private = [
            line for line in rollup.splitlines() if line.startswith(("Private_Dirty", "Private_Clean"))
        ]
        own_kb = sum(int(line.split()[1]) for line in private)
        print(f"memory of its own: {own_kb} KB")
        assert own_kb < 3 * 1024


def test_arguments_that_are_not_understood_are_refused() -> None:
    for arguments in (
        [],
        ["--image", "1"],
        ["--socket"],
        ["--socket", "99", "--image", "98"],
        ["--other", "3"],
    ):
        outcome = subprocess.run([PAGER, *arguments], check=False, capture_output=True, text=True, timeout=10)
        assert outcome.returncode == 2
        assert outcome.stderr.startswith("usage: ")
    version = subprocess.run([PAGER, "--version"], check=True, capture_output=True, text=True, timeout=10)
    assert version.stdout.startswith("pager ")


def test_a_killed_server_leaves_a_program_that_can_be_killed(image: Image) -> None:
    """The program waits for ever: who starts a server has to end its VM with it."""
    with served(image) as (pager, vmm):
        assert vmm.answer() == "sent"
        pager.send_signal(signal.SIGKILL)
        pager.wait(_TIMEOUT_S)
        vmm.ask("read", 300)
        vmm.process.kill()
        assert vmm.process.wait(_TIMEOUT_S) == -signal.SIGKILL
