"""Run all benchmarks against a platform of their own and print the table; `--write` also puts it into the README."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform as machine
import re
import shutil
import tempfile
from pathlib import Path

from tests.performance.creates import creates
from tests.performance.execs import execs
from tests.performance.figures import HEAD, Figure
from tests.performance.idle import idle
from tests.performance.setup_again import setup_again
from tests.performance.transfers import transfers
from tests.vm.platform import Platform, running_platform
from wrenn.network import claim_block, release_block, remove_everything

ROOT = Path(__file__).resolve().parent.parent.parent
BENCHES = {"creates": creates, "execs": execs, "transfers": transfers, "idle": idle}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=[*BENCHES, "setup_again"])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    images = Path(os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"))
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-"))
    figures: list[Figure] = []
    try:
        async with running_platform(folder, images) as platform:
            facts = await _facts(platform)
            print(f"{facts}\n\n{HEAD}", flush=True)
            for name, bench in BENCHES.items():
                if options.only in (None, name):
                    for figure in await bench(platform, options.rounds):
                        print(figure.row(), flush=True)
                        figures.append(figure)
        if options.only in (None, "setup_again"):
            figure = await setup_again(images)
            print(figure.row(), flush=True)
            figures.append(figure)
    finally:
        await remove_everything(claim_block(folder))
        release_block(folder)
        shutil.rmtree(folder)
    if options.write:
        _write("\n".join([facts, "", HEAD, *(figure.row() for figure in figures)]))


async def _facts(platform: Platform) -> str:
    agent = (await platform.examine()).checks[-1].detail
    return f"{os.cpu_count()} cores, Linux {machine.release().split('-')[0]}; agent {agent}; medians of the rounds."


def _write(table: str) -> None:
    readme = ROOT / "README.md"
    text = re.sub(
        r"(<!-- figures -->).*(<!-- /figures -->)", rf"\1\n{table}\n\2", readme.read_text(), flags=re.DOTALL
    )
    readme.write_text(text)


if __name__ == "__main__":
    asyncio.run(main())
