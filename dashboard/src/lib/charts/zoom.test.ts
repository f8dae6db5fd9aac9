import { describe, expect, it } from 'vitest';
import { keepsZoom, zoomOf } from './zoom';

// Ten minutes, of which the last five have points.
const window = { times: [300, 400, 600], from: 0, to: 601 };

describe('zoomOf', () => {
	it.each([
		['all', { min: 0, max: 601 }, null],
		['a double click', { min: 300, max: 600 }, null],
		['a part', { min: 310, max: 350 }, { min: 310, max: 350 }],
		['a part at the beginning', { min: 0, max: 350 }, { min: 0, max: 350 }],
		['nothing drawn yet', {}, null]
	])('%s', (_, shown, zoom) => {
		expect(zoomOf(shown, window)).toEqual(zoom);
	});

	it('is none of a single point, of which a double click shows a day', () => {
		expect(zoomOf({ min: 300, max: 300 + 86_400 }, { ...window, times: [300] })).toBe(null);
	});
});

it('ends with another range, not with new points', () => {
	expect(keepsZoom(window, { times: [], from: 0.5, to: 601.5 })).toBe(true);
	expect(keepsZoom(window, { times: [], from: 601 - 86_400, to: 601 })).toBe(false);
});
