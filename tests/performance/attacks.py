"""A neighbour's `exec true` under each attack, beside the same without one; and how fast the attacker is deleted."""

from __future__ import annotations

from tests.attacks.attacks import ATTACKS
from tests.attacks.kit import Target, new_target
from tests.performance.figures import Figure, percentile, timed_ms
from tests.vm.platform import Platform

CALLS = 100
RATIO_LIMIT = 3.0
DELETE_LIMIT_MS = 2000.0


async def attacks(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of the neighbour's p99 and of the deletion, two for each attack."""
    calls = max(20, min(CALLS, rounds * 5))
    figures: list[Figure] = []
    async with new_target(platform) as neighbour:
        for attack in ATTACKS:
            quiet = await _p99_ms(neighbour, calls)
            async with new_target(platform) as target, attack.run(target):
                busy = await _p99_ms(neighbour, calls)
                deletion_ms = await timed_ms(lambda target=target: neighbour.api.delete(target.path))
            ratio = busy / quiet
            figures.append(
                Figure(
                    f"neighbour's exec, p99 of {calls}, under: {attack.name}", f"{quiet:.0f} ms (quiet)",
                    f"{busy:.0f} ms; attacker deleted in {deletion_ms:.0f} ms", f"{ratio:.1f}",
                    "≤ 3; deleted ≤ 2 s", ratio <= RATIO_LIMIT and deletion_ms <= DELETE_LIMIT_MS,
                )
            )  # fmt: skip
    return figures


async def _p99_ms(neighbour: Target, calls: int) -> float:
    async def call() -> None:
        answer = await neighbour.exec("true", timeout_s=60)
        assert answer.status_code == 200, answer.text

    return percentile([await timed_ms(call) for _ in range(calls)], 0.99)
