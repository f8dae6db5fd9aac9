import { describe, expect, it } from 'vitest';
import { Slots } from './slots';

const ids = (first: number, last: number) => Array.from({ length: last - first }, (_, offset) => `sb-${first + offset}`);

describe('elements of a list', () => {
	it('keeps the element of each row that stays', () => {
		const slots = new Slots();
		const before = slots.assign(ids(0, 10));
		const after = slots.assign(ids(4, 14));
		expect(after.slice(0, 6)).toEqual(before.slice(4));
		expect(slots.assign(['new', ...ids(4, 13)]).slice(1)).toEqual(after.slice(0, 9));
	});

	it('uses the elements of rows that went away, each for one row', () => {
		const slots = new Slots();
		const before = slots.assign(ids(0, 10));
		for (let first = 0; first < 500; first += 7) expect(slots.assign(ids(first, first + 10)).sort()).toEqual([...before].sort());
		expect(new Set(slots.assign(ids(500, 520))).size).toBe(20);
		expect(slots.assign([])).toEqual([]);
	});
});
