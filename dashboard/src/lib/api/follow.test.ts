import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { followWhileVisible } = await import('./follow');

describe('followWhileVisible', () => {
	let streams: ReadableStreamDefaultController<Uint8Array>[] = [];
	let refusal: Response | null = null;
	let page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
	const heard: string[] = [];
	const onmissed = vi.fn();
	const onlive = vi.fn();
	let stop = () => {};

	const fetched = vi.fn((request: Request): Promise<Response> => {
		if (refusal !== null) return Promise.resolve(refusal);
		const body = new ReadableStream<Uint8Array>({
			start(controller) {
				streams.push(controller);
				request.signal.addEventListener('abort', () => controller.error(request.signal.reason));
			}
		});
		return Promise.resolve(new Response(body));
	});
	async function send(stream: number, type: string) {
		streams[stream]?.enqueue(new TextEncoder().encode(`data: {"type":"${type}"}\n\n`));
		await vi.advanceTimersByTimeAsync(1);
	}
	async function show(state: 'visible' | 'hidden') {
		page.visibilityState = state;
		page.dispatchEvent(new Event('visibilitychange'));
		await vi.advanceTimersByTimeAsync(1);
	}

	beforeEach(async () => {
		vi.useFakeTimers();
		[streams, refusal, heard.length] = [[], null, 0];
		page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
		vi.stubGlobal('document', page);
		vi.stubGlobal('fetch', fetched);
		fetched.mockClear();
		onmissed.mockClear();
		onlive.mockClear();
		stop = followWhileVisible('/v1/stream', { onevent: ({ type }: { type?: string }) => void heard.push(type ?? ''), onmissed, onlive });
		await vi.advanceTimersByTimeAsync(1);
	});
	afterEach(() => {
		stop();
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});

	it('says that something may have been missed when it follows again after a lost connection', async () => {
		await send(0, 'started');
		streams[0]?.error(new TypeError('network error'));
		await vi.advanceTimersByTimeAsync(6_000);
		expect(onmissed).not.toHaveBeenCalled();
		await send(1, 'started');
		expect(onmissed).toHaveBeenCalledTimes(1);
		await send(1, 'changed');
		expect([onmissed.mock.calls.length, heard]).toEqual([1, ['started', 'started', 'changed']]);
	});

	it('follows again after an error and after a refusal', async () => {
		await send(0, 'error');
		refusal = new Response('{}', { status: 404 });
		await vi.advanceTimersByTimeAsync(6_000);
		expect([fetched.mock.calls.length, heard]).toEqual([2, []]);
		refusal = null;
		await vi.advanceTimersByTimeAsync(10_000);
		await send(1, 'started');
		expect([fetched.mock.calls.length, heard, onmissed.mock.calls.length]).toEqual([3, ['started'], 2]);
	});

	it.each([429, 503, 403])('loads every ten seconds, and says so, while it is refused with %i', async (status) => {
		stop();
		refusal = new Response('{}', { status });
		onmissed.mockClear();
		onlive.mockClear();
		stop = followWhileVisible('/v1/stream', { onevent: ({ type }: { type?: string }) => void heard.push(type ?? ''), onmissed, onlive });
		await vi.advanceTimersByTimeAsync(35_000);
		expect([onmissed.mock.calls.length, onlive.mock.calls.at(-1)]).toEqual([3, [false]]);
		refusal = null;
		await vi.advanceTimersByTimeAsync(10_000);
		await send(1, 'started');
		expect([onmissed.mock.calls.length, onlive.mock.calls.at(-1), heard]).toEqual([4, [true], ['started']]);
	});

	it('follows only while the page is visible', async () => {
		await send(0, 'started');
		await show('hidden');
		await vi.advanceTimersByTimeAsync(60_000);
		expect(fetched).toHaveBeenCalledTimes(1);
		await show('visible');
		await send(1, 'started');
		expect([fetched.mock.calls.length, onmissed.mock.calls.length]).toEqual([2, 1]);
		stop();
		await vi.advanceTimersByTimeAsync(60_000);
		expect(fetched).toHaveBeenCalledTimes(2);
	});
});
