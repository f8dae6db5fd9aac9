/** Ranges of the statistics of teams and of the platform. */
import type { Schemas } from '$lib/api/client';

export type StatsRange = Schemas['StatsRange'];

/** Seconds back, and the width of a bucket. */
export const STATS_RANGES: Record<StatsRange, [length: number, step: number]> = {
	'5m': [300, 3], '1h': [3_600, 30], '6h': [21_600, 180], '24h': [86_400, 720], '30d': [2_592_000, 21_600]
}; // prettier-ignore

/** What is measured every ten seconds is not in each narrower bucket. */
export const MEASURED_S = 10;

const SHORT_RELOAD_MS = 10_000;
const LONG_RELOAD_MS = 60_000;

/** The range of an address; an hour if it names none. */
export function statsRangeOf(url: URL): StatsRange {
	const asked = url.searchParams.get('range') ?? '1h';
	return asked in STATS_RANGES ? (asked as StatsRange) : '1h';
}

/** How often new points are asked for. */
export const reloadMsOf = (range: StatsRange): number => (STATS_RANGES[range][1] > 60 ? LONG_RELOAD_MS : SHORT_RELOAD_MS);
