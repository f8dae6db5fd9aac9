import { describe, expect, it } from 'vitest';
import { columnsOf, spread } from './series';

describe('columnsOf', () => {
	it('interrupts lines where nothing was recorded', () => {
		const points = [
			{ at: 0, cpu: 1 },
			{ at: 1, cpu: 2 },
			{ at: 61, cpu: 3, memory: 4 }
		];
		const columns = columnsOf(points, (point) => point.at, { cpu: (point) => point.cpu, memory: (point) => point.memory }, 10);
		expect(columns).toEqual({
			times: [0, 1, 31, 61],
			values: { cpu: [1, 2, null, 3], memory: [null, null, null, 4] },
			gaps: [[1, 61]]
		});
	});
});

describe('spread', () => {
	it('has the last one, and no more than was asked for', () => {
		expect(spread(3, 5)).toEqual([0, 1, 2]);
		expect(spread(1000, 4)).toEqual([249, 499, 749, 999]);
		expect(spread(0, 4)).toEqual([]);
	});
});
