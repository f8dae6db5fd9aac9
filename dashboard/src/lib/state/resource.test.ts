import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { ApiError } = await import('$lib/api/errors');
const { live } = await import('./live.svelte');
const { Resource } = await import('./resource.svelte');

/** A load whose answers come when the test says so. */
function loads() {
	const begun: { answer: (value: string) => void; fail: (error: Error) => void; signal: AbortSignal }[] = [];
	const load = (signal: AbortSignal) =>
		new Promise<string>((answer, fail) => {
			begun.push({ answer, fail, signal });
		});
	return { begun, load };
}

describe('Resource', () => {
	let page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
	const settle = () => vi.advanceTimersByTimeAsync(1);
	const temporary = () => new ApiError(503, 'unavailable', 'Later.');

	beforeEach(() => {
		vi.useFakeTimers();
		page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
		vi.stubGlobal('document', page);
		live.isLive = true;
	});
	afterEach(() => {
		live.isLive = false;
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});

	it('shows each answer, and loads once more for all that asked meanwhile', async () => {
		const { begun, load } = loads();
		const resource = new Resource(load);
		const first = resource.reload();
		let isSecondDone = false;
		for (let call = 0; call < 5; call++) void resource.reload().then(() => (isSecondDone = true));
		await settle();
		expect(begun.length).toBe(1);
		begun[0]?.answer('first');
		await first;
		await settle();
		expect([resource.value, begun.length, isSecondDone, resource.isLoading]).toEqual(['first', 2, false, true]);
		begun[1]?.answer('second');
		await settle();
		expect([resource.value, begun.length, isSecondDone, resource.isLoading]).toEqual(['second', 2, true, false]);
	});

	it('replaces a load for other inputs, and ends its calls', async () => {
		const { begun, load } = loads();
		let range = '5m';
		const resource = new Resource(load, { inputs: () => range });
		const former = resource.reload();
		range = '1h';
		void resource.reload();
		await former;
		expect([begun.length, begun[0]?.signal.aborted, begun[1]?.signal.aborted]).toEqual([2, true, false]);
		begun[1]?.answer('of an hour');
		begun[0]?.answer('of five minutes');
		await settle();
		expect([resource.value, resource.error, begun.length]).toEqual(['of an hour', null, 2]);
	});

	it('gives a load up that never ends', async () => {
		const { begun, load } = loads();
		const resource = new Resource(load);
		void resource.reload();
		await vi.advanceTimersByTimeAsync(61_000);
		expect([resource.error?.code, begun[0]?.signal.aborted, resource.isLoading]).toEqual(['unreachable', true, false]);
		await vi.advanceTimersByTimeAsync(5_000);
		begun[1]?.answer('at last');
		await settle();
		expect([resource.value, resource.error]).toEqual(['at last', null]);
		resource.close();
	});

	it('loads again after a temporary error, only while the page is visible', async () => {
		const { begun, load } = loads();
		const resource = new Resource(load);
		void resource.reload();
		begun[0]?.fail(temporary());
		await settle();
		expect(resource.error?.code).toBe('unavailable');
		page.visibilityState = 'hidden';
		await vi.advanceTimersByTimeAsync(600_000);
		expect(begun.length).toBe(1);
		page.visibilityState = 'visible';
		page.dispatchEvent(new Event('visibilitychange'));
		await settle();
		expect(begun.length).toBe(2);
		begun[1]?.fail(new ApiError(404, 'not_found', 'Gone.'));
		await vi.advanceTimersByTimeAsync(600_000);
		expect([begun.length, resource.error?.code]).toEqual([2, 'not_found']);
	});

	it('asks for nothing any more once its component has ended', async () => {
		const failed = loads();
		const waiting = new Resource(failed.load);
		void waiting.reload();
		failed.begun[0]?.fail(temporary());
		await settle();
		waiting.close();
		const hung = loads();
		const running = new Resource(hung.load);
		void running.reload();
		void running.reload();
		running.close();
		await vi.advanceTimersByTimeAsync(600_000);
		hung.begun[0]?.answer('too late');
		await waiting.reload();
		await settle();
		expect([failed.begun.length, hung.begun.length, hung.begun[0]?.signal.aborted, running.value]).toEqual([1, 1, true, undefined]);
	});
});
