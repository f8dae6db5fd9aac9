/** Which part of its time a chart shows: all of it, which moves on with new points, or a part that somebody chose. */

export interface Span {
	min: number;
	max: number;
}

interface Window {
	times: number[];
	from: number;
	to: number;
}

/** Another range was chosen if the window is longer or shorter by more than this. */
const SAME_LENGTH_S = 1;

/** What somebody zoomed into, by what a chart shows; null: all. A double click shows from the first to the last point, which means all. */
export function zoomOf({ min, max }: Partial<Span>, { times, from, to }: Window): Span | null {
	if (min == null || max == null || times.length < 2) return null;
	if ((min === from && max === to) || (min === times[0] && max === times.at(-1))) return null;
	return { min, max };
}

/** Whether a zoom outlives new values: not another range. */
export function keepsZoom(before: Window, after: Window): boolean {
	return Math.abs(after.to - after.from - (before.to - before.from)) <= SAME_LENGTH_S;
}
