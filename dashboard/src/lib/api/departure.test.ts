import { afterEach, beforeEach, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: '/b' }));
const { departure } = await import('./departure');

const assign = vi.fn();
const asked = vi.fn();
beforeEach(() => {
	vi.stubGlobal('location', { assign });
	departure.onpostponed = asked;
	departure.isAllowed = false;
});
afterEach(() => vi.unstubAllGlobals());

it('leaves at once where nothing was typed, and otherwise asks once', () => {
	let isUnsaved = true;
	const end = departure.guard(() => isUnsaved);
	departure.begin('team');
	departure.begin('team');
	expect([asked.mock.calls, assign.mock.calls]).toEqual([[['team']], []]);
	expect(departure.isAllowed).toBe(false);
	departure.begin('user');
	expect(asked).toHaveBeenCalledTimes(2);
	isUnsaved = false;
	departure.begin('team');
	expect([assign.mock.calls, departure.isAllowed]).toEqual([[['/b/']], true]);
	end();
});

it('asks about nothing that has ended', () => {
	departure.guard(() => true)();
	assign.mockClear();
	departure.begin('team');
	expect(assign).toHaveBeenCalledTimes(1);
});
