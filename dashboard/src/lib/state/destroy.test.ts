import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { destroyLater, destroyWhileLeaving, hasMuchToDestroy } = await import('./destroy');
const { toasts } = await import('./toasts.svelte');

describe('destroyLater', () => {
	let running = 0;
	let most = 0;
	const sent: Request[] = [];
	const ids = (count: number) => Array.from({ length: count }, (_, number) => `cl-${number}`);

	beforeEach(() => {
		vi.useFakeTimers();
		[running, most, sent.length] = [0, 0, 0];
		vi.stubGlobal('fetch', async (request: Request) => {
			sent.push(request);
			most = Math.max(most, ++running);
			await new Promise((done) => setTimeout(done, 10));
			running--;
			return new Response(null, { status: 204 });
		});
	});
	afterEach(() => {
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});

	it('sends very many calls a few at a time, without what browsers limit', async () => {
		destroyLater(ids(600));
		expect(hasMuchToDestroy()).toBe(true);
		await vi.advanceTimersByTimeAsync(10_000);
		expect([sent.length, most, sent.some((request) => request.keepalive), hasMuchToDestroy()]).toEqual([600, 6, false, false]);
	});

	it('sends those that are left over in a way that outlives the page, each once', async () => {
		destroyLater(ids(20));
		await vi.advanceTimersByTimeAsync(5_005);
		destroyWhileLeaving();
		await vi.advanceTimersByTimeAsync(1_000);
		expect([sent.length, new Set(sent.map(({ url }) => url)).size]).toEqual([20, 20]);
		expect(sent.filter((request) => request.keepalive).length).toBe(14);
	});

	it('sends nothing after Undo', async () => {
		destroyLater(ids(3));
		toasts.undo();
		destroyWhileLeaving();
		await vi.advanceTimersByTimeAsync(10_000);
		expect(sent).toEqual([]);
	});
});
