import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { token } = await import('$lib/api/token');
const { live } = await import('./live.svelte');

describe('live', () => {
	const page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
	const left = vi.fn();
	let streams: () => Response = () => new Response();
	let refreshes: () => Response = () => new Response();
	const signedIn = { token: 't', expires_in: 900, team_id: 'team-1', user_id: 'usr-1', email: 'e', name: 'n', is_admin: false };

	beforeEach(() => {
		vi.useFakeTimers();
		vi.stubGlobal('document', page);
		vi.stubGlobal('location', { assign: left });
		vi.stubGlobal('navigator', {});
		vi.stubGlobal('BroadcastChannel', undefined);
		vi.stubGlobal('fetch', (input: Request | string) => Promise.resolve(typeof input === 'string' ? refreshes() : streams()));
		left.mockClear();
		token.accept(signedIn as never);
	});
	afterEach(() => {
		live.stop();
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});
	const refusal = (status: number) => Response.json({ error: { code: 'x', message: 'y' } }, { status });

	it('says why changes do not arrive, and goes on', async () => {
		streams = () => refusal(429);
		live.follow('team-1');
		await vi.advanceTimersByTimeAsync(100);
		expect([live.isLive, live.problem]).toEqual([false, 'limit']);
		streams = () => refusal(503);
		await vi.advanceTimersByTimeAsync(2_000);
		expect(live.problem).toBe('silence');
		streams = () => new Response(new ReadableStream({ start: (stream) => stream.enqueue(new TextEncoder().encode('id: 1\nevent: ready\ndata: {}\n\n')) }));
		await vi.advanceTimersByTimeAsync(20_000);
		expect([live.isLive, live.lostAt]).toEqual([true, null]);
	});

	it('leads somebody who is no longer in the team to another page', async () => {
		streams = () => refusal(403);
		refreshes = () => Response.json({ ...signedIn, token: 'u' });
		live.follow('team-1');
		await vi.advanceTimersByTimeAsync(100);
		expect([live.problem, left.mock.calls.length]).toEqual(['refusal', 0]);
		refreshes = () => refusal(403);
		await vi.advanceTimersByTimeAsync(2_000);
		expect(left).toHaveBeenCalled();
	});
});
