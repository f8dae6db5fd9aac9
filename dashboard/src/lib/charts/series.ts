/** Series for charts. */

/** One line of a chart. `colour` is a name of `app.css`. */
export interface Series {
	label: string;
	colour: string;
	values: (number | null)[];
	isDashed?: boolean;
}

/** Times in seconds, in order, with the values of all lines at each. */
export interface Columns<Name extends string> {
	times: number[];
	values: Record<Name, (number | null)[]>;
	/** From when to when nothing was recorded, because the thing did not run. */
	gaps: [from: number, to: number][];
}

/** Points as columns. Where two are further apart than `gap_s`, lines are interrupted. */
export function columnsOf<Point, Name extends string>(
	points: Point[],
	timeOf: (point: Point) => number,
	read: Record<Name, (point: Point) => number | null | undefined>,
	gapS: number
): Columns<Name> {
	const names = Object.keys(read) as Name[];
	const columns: Columns<Name> = { times: [], values: {} as Record<Name, (number | null)[]>, gaps: [] };
	for (const name of names) columns.values[name] = [];
	let before: number | undefined;
	for (const point of points) {
		const time = timeOf(point);
		if (before !== undefined && time - before > gapS) {
			columns.gaps.push([before, time]);
			columns.times.push((before + time) / 2);
			for (const name of names) columns.values[name].push(null);
		}
		columns.times.push(time);
		for (const name of names) columns.values[name].push(read[name](point) ?? null);
		before = time;
	}
	return columns;
}

/** At most `count` indices, evenly spread, the last one included: for tables beside charts. */
export function spread(length: number, count: number): number[] {
	if (length <= count) return Array.from({ length }, (_, index) => index);
	return Array.from({ length: count }, (_, index) => Math.round(((index + 1) * length) / count) - 1);
}
