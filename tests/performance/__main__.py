"""Run all benchmarks against a platform of their own and print the table; `--write` also puts it into the README."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform as machine
import shutil
import tempfile
from pathlib import Path

from tests.installations import remove_installation
from tests.performance.accounts import accounts
from tests.performance.attacks import attacks
from tests.performance.cached_builds import cached_builds
from tests.performance.cold_creates import cold_creates
from tests.performance.container_imports import container_imports
from tests.performance.creates import creates
from tests.performance.dashboard import dashboard
from tests.performance.e2b_creates import e2b_creates
from tests.performance.e2b_data import e2b_data
from tests.performance.execs import execs
from tests.performance.figures import HEAD, Figure
from tests.performance.forks import forks
from tests.performance.idle import idle
from tests.performance.image_versions import image_versions
from tests.performance.kvm import kvm
from tests.performance.moves import moves
from tests.performance.paused_disk import paused_disk
from tests.performance.pauses import pauses
from tests.performance.placement import placement
from tests.performance.ports import ports
from tests.performance.renewals import renewals
from tests.performance.resumes import resumes
from tests.performance.setup_again import setup_again
from tests.performance.steady_load import steady_load
from tests.performance.stops import stops
from tests.performance.streams import streams
from tests.performance.transfers import transfers
from tests.vm.platform import Platform, running_platform

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
ROOT = Path(__file__).resolve().parent.parent.parent
BENCHES = {
    "creates": creates,
    "e2b_creates": e2b_creates,
    "accounts": accounts,
    "execs": execs,
    "transfers": transfers,
    "streams": streams,
    "idle": idle,
    "pauses": pauses,
    "resumes": resumes,
    "stops": stops,
    "forks": forks,
    "paused_disk": paused_disk,
    "image_versions": image_versions,
    "moves": moves,
    "cold_creates": cold_creates,
    "cached_builds": cached_builds,
    "ports": ports,
    "e2b_data": e2b_data,
    "attacks": attacks,
}
WITH_THEIR_OWN_PLATFORM = {
    "container_imports": container_imports,
    "placement": placement,
    "dashboard": dashboard,
    "renewals": renewals,
    "kvm": kvm,
}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*BENCHES, *WITH_THEIR_OWN_PLATFORM, "steady_load", "setup_again"],
        metavar="BENCH",
    )
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    images = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-"))
    figures: list[Figure] = []
    try:
        async with running_platform(folder, images, measured=True) as platform:
            facts = await _facts(platform, options.rounds)
            print(f"{facts}\n\n{HEAD}", flush=True)
            for name, bench in BENCHES.items():
                if not options.only or name in options.only:
                    for figure in await bench(platform, options.rounds):
                        print(figure.row(), flush=True)
                        figures.append(figure)
        for name, own_bench in WITH_THEIR_OWN_PLATFORM.items():
            if not options.only or name in options.only:
                for figure in await own_bench(options.rounds):
                    print(figure.row(), flush=True)
                    figures.append(figure)
        if not options.only or "steady_load" in options.only:
            for figure in await steady_load():
                print(figure.row(), flush=True)
                figures.append(figure)
        if not options.only or "setup_again" in options.only:
            figure = await setup_again(images)
            print(figure.row(), flush=True)
            figures.append(figure)
    finally:
        await remove_installation(folder)
        shutil.rmtree(folder)
    if options.write:
        _write(facts, figures, keep_others=bool(options.only))


async def _facts(platform: Platform, rounds: int) -> str:
    agent = (await platform.examine()).checks[-1].detail
    return (
        f"{os.cpu_count()} cores, Linux {machine.release().split('-')[0]}; agent {agent}. "
        f"Medians of {rounds} rounds where a row says nothing else."
    )


def _write(facts: str, figures: list[Figure], *, keep_others: bool) -> None:
    """Put the table into the README; rows of the same names are replaced, others dropped or kept."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN, 1)
    former, after = rest.split(END, 1)
    rows = [line for line in former.splitlines() if line.startswith("| ")][1:] if keep_others else []
    by_name = {row.split(" | ")[0]: row for row in (*rows, *(figure.row() for figure in figures))}
    readme.write_text("\n".join([before + BEGIN, facts, "", HEAD, *by_name.values(), END + after]))


if __name__ == "__main__":
    asyncio.run(main())
