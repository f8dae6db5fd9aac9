"""Pauses and resumes one sandbox many times over the API of a running platform: run as a program, in the host machine.

Usage: `python3 -m tests.kvm.pause_program TIMES`; URL and key of the platform are in the environment. It prints a line for each turn. After
each one, and after its disk was made larger at the end, the same process of the guest counts on, its memory has the digest of before, and
so have a file in memory and one on disk.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

from wrenn.sdk import Sandbox

_TIMEOUT_S: Final = 300.0
_COUNT_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.2
_LARGER_MB: Final = 8192
_COUNTER: Final = """\
import hashlib, json, os, time

held = os.urandom(4_000_000)
with open("/dev/shm/held", "wb") as in_memory, open("/root/held", "wb") as on_disk:
    in_memory.write(held)
    on_disk.write(held)
os.sync()
count = 0
while True:
    count += 1
    seen = {"process": os.getpid(), "count": count, "digest": hashlib.sha256(held).hexdigest()}
    with open("/dev/shm/next", "w") as file:
        json.dump(seen, file)
    os.rename("/dev/shm/next", "/dev/shm/seen")
    time.sleep(0.1)
"""
_LOOK: Final = "cat /dev/shm/seen; echo; sha256sum </dev/shm/held; sha256sum </root/held; cat /root/turns"


def _look(sandbox: Sandbox) -> tuple[dict[str, Any], list[str], list[str]]:
    """What the process says of itself, the digests of the two files, and the turns until now."""
    said, in_memory, on_disk, *turns = sandbox.commands.run(_LOOK, check=True, timeout_s=120).stdout.split(
        "\n"
    )
    return json.loads(said), [in_memory.split()[0], on_disk.split()[0]], [turn for turn in turns if turn]


def _counted_beyond(sandbox: Sandbox, count: int) -> tuple[dict[str, Any], list[str], list[str]]:
    end = time.monotonic() + _COUNT_TIMEOUT_S
    while (found := _look(sandbox))[0]["count"] <= count:
        assert time.monotonic() < end, f"the process has stopped at {count}"
        time.sleep(_POLL_S)
    return found


def main() -> None:
    times = int(sys.argv[1])
    sandbox = Sandbox.create(request_timeout_s=_TIMEOUT_S)
    try:
        sandbox.files.write("/root/counter.py", _COUNTER)
        sandbox.commands.run("touch /root/turns", check=True)
        sandbox.commands.run(["python3", "/root/counter.py"], background=True)
        sandbox.commands.run("until [ -e /dev/shm/seen ]; do sleep 0.1; done", check=True, timeout_s=120)
        first, digests, _ = _look(sandbox)
        assert digests == [first["digest"]] * 2, (first, digests)
        count = first["count"]
        for turn in range(times):
            sandbox.commands.run(f"echo {turn} >>/root/turns", check=True)
            begun = time.monotonic()
            sandbox.pause()
            paused = time.monotonic()
            sandbox.resume()
            resumed = time.monotonic()
            seen, digests, turns = _counted_beyond(sandbox, count)
            assert digests == [first["digest"]] * 2, (turn, digests)
            assert (seen["process"], seen["digest"]) == (first["process"], first["digest"]), (turn, seen)
            assert turns == [str(number) for number in range(turn + 1)], turns
            count = seen["count"]
            print(
                f"ok {turn}: pause {paused - begun:.1f} s, resume {resumed - paused:.1f} s, count {count}",
                flush=True,
            )
        sandbox.set_disk(_LARGER_MB)
        seen, digests, _ = _counted_beyond(sandbox, count)
        assert digests == [first["digest"]] * 2, digests
        assert seen["process"] == first["process"], seen
        size_mb = int(sandbox.commands.run("df -Pm / | tail -n 1", check=True).stdout.split()[1])
        assert size_mb > _LARGER_MB * 0.9, size_mb
        print(f"its disk has {size_mb} MB now", flush=True)
    finally:
        sandbox.kill()


if __name__ == "__main__":
    main()
