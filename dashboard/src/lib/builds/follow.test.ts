import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { BuildLog } = await import('./follow.svelte');

describe('BuildLog', () => {
	const streams: ReadableStreamDefaultController<Uint8Array>[] = [];
	const fetched = vi.fn((request: Request): Promise<Response> => {
		const body = new ReadableStream<Uint8Array>({
			start(controller) {
				streams.push(controller);
				request.signal.addEventListener('abort', () => controller.error(request.signal.reason));
			}
		});
		return Promise.resolve(new Response(body));
	});
	const page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
	const end = new AbortController();

	async function show(state: 'visible' | 'hidden') {
		page.visibilityState = state;
		page.dispatchEvent(new Event('visibilitychange'));
		await vi.advanceTimersByTimeAsync(1);
	}
	beforeEach(() => {
		vi.useFakeTimers();
		vi.stubGlobal('document', page);
		vi.stubGlobal('fetch', fetched);
	});
	afterEach(() => {
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});

	it('is read only while the page is visible, and goes on where it was', async () => {
		const followed = new BuildLog().follow('/v1/builds/bl-1/logs', end.signal);
		await vi.advanceTimersByTimeAsync(1);
		streams[0]?.enqueue(new TextEncoder().encode('id: 7\nevent: note\ndata: {}\n\n'));
		await vi.advanceTimersByTimeAsync(1);
		await show('hidden');
		expect(fetched.mock.calls[0]?.[0].signal.aborted).toBe(true);
		await vi.advanceTimersByTimeAsync(60_000);
		expect(fetched).toHaveBeenCalledTimes(1);
		await show('visible');
		expect(fetched.mock.calls[1]?.[0].headers.get('last-event-id')).toBe('7');
		await show('hidden');
		end.abort();
		await followed;
		expect(fetched).toHaveBeenCalledTimes(2);
	});
});
