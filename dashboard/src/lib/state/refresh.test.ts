import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LiveEvent } from './live.svelte';

vi.mock('$app/paths', () => ({ base: '' }));
const { live } = await import('./live.svelte');
const { reloadOnEvents } = await import('./refresh');

describe('reloadOnEvents', () => {
	let hear: (event: LiveEvent) => void = () => {};
	let page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
	const event = (type: string): LiveEvent => ({ type, resource_id: 'x', at: '', data: {} });

	beforeEach(() => {
		vi.useFakeTimers();
		page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
		vi.stubGlobal('document', page);
		vi.spyOn(live, 'subscribe').mockImplementation((listener) => {
			hear = listener;
			return () => (hear = () => {});
		});
	});
	afterEach(() => {
		vi.restoreAllMocks();
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});

	it('loads one after the other under steady events, and once more after the last one', async () => {
		let running = 0;
		let most = 0;
		const reload = vi.fn(async () => {
			most = Math.max(most, ++running);
			await new Promise((done) => setTimeout(done, 400));
			running--;
		});
		const end = reloadOnEvents(({ type }) => type === 'sandbox.paused', reload);
		for (let elapsed = 0; elapsed < 10_000; elapsed += 50) {
			hear(event('sandbox.paused'));
			await vi.advanceTimersByTimeAsync(50);
		}
		// A load takes 0.4 s, and the next one begins 1 s later.
		expect([most, reload.mock.calls.length]).toEqual([1, 8]);
		await vi.advanceTimersByTimeAsync(10_000);
		expect(reload).toHaveBeenCalledTimes(9);
		hear(event('host.up'));
		await vi.advanceTimersByTimeAsync(10_000);
		expect(reload).toHaveBeenCalledTimes(9);
		end();
	});

	it('waits until the page is visible, and ends', async () => {
		const reload = vi.fn(() => Promise.resolve());
		const end = reloadOnEvents(() => true, reload);
		page.visibilityState = 'hidden';
		for (let count = 0; count < 5; count++) {
			hear(event('sandbox.paused'));
			await vi.advanceTimersByTimeAsync(1_000);
		}
		expect(reload).not.toHaveBeenCalled();
		page.visibilityState = 'visible';
		page.dispatchEvent(new Event('visibilitychange'));
		await vi.advanceTimersByTimeAsync(1);
		expect(reload).toHaveBeenCalledTimes(1);
		hear(event('reset'));
		end();
		await vi.advanceTimersByTimeAsync(10_000);
		expect(reload).toHaveBeenCalledTimes(1);
	});
});
