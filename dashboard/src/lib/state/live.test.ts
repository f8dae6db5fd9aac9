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

	describe('with other tabs', () => {
		type Lead = () => Promise<void>;
		let requests: { steal: boolean; lead: Lead; lose: (error: Error) => void }[] = [];
		let posted: { kind: string }[] = [];
		let channel: { onmessage: (event: { data: unknown }) => void; closed: boolean };
		const say = (data: unknown) => channel.onmessage({ data });
		const ready = () =>
			new Response(new ReadableStream({ start: (stream) => stream.enqueue(new TextEncoder().encode('id: 1\nevent: ready\ndata: {}\n\n')) }));

		beforeEach(() => {
			requests = [];
			posted = [];
			vi.stubGlobal('BroadcastChannel', function () {
				channel = { onmessage: () => {}, closed: false };
				return Object.assign(channel, { postMessage: (message: { kind: string }) => posted.push(message), close: () => (channel.closed = true) });
			});
			const request = (_: string, options: { steal?: boolean; signal?: AbortSignal }, lead: Lead) =>
				new Promise<void>((_, lose) => {
					requests.push({ steal: options.steal === true, lead, lose });
					options.signal?.addEventListener('abort', () => lose(new Error('aborted')));
				});
			vi.stubGlobal('navigator', { locks: { request } });
		});

		it('takes the place of a tab that has fallen silent', async () => {
			const events: string[] = [];
			const unsubscribe = live.subscribe((event) => events.push(event.type));
			live.follow('team-1');
			say({ kind: 'status', live: true, problem: 'silence' });
			for (let second = 0; second < 60; second += 5) {
				await vi.advanceTimersByTimeAsync(5_000);
				say({ kind: 'beat' });
			}
			expect([live.isLive, requests.map(({ steal }) => steal)]).toEqual([true, [false]]);
			await vi.advanceTimersByTimeAsync(20_000);
			expect([live.isLive, requests.map(({ steal }) => steal)]).toEqual([false, [false, true]]);
			streams = ready;
			void requests[1]?.lead();
			await vi.advanceTimersByTimeAsync(100);
			expect([live.isLive, events]).toEqual([true, ['reset']]);
			// The tab that hung goes on for a moment.
			say({ kind: 'status', live: false, problem: 'silence' });
			await vi.advanceTimersByTimeAsync(30_000);
			expect([live.isLive, requests.length]).toEqual([true, 2]);
			expect(posted.filter(({ kind }) => kind === 'beat').length).toBeGreaterThan(5);
			unsubscribe();
		});

		it('takes the place of a tab that does not answer at first', async () => {
			live.follow('team-1');
			await vi.advanceTimersByTimeAsync(6_000);
			expect([live.isLive, live.lostAt === null, requests.map(({ steal }) => steal)]).toEqual([false, false, [false, true]]);
		});

		it('leaves its place to a tab that heard nothing from it', async () => {
			const events: string[] = [];
			const unsubscribe = live.subscribe((event) => events.push(event.type));
			streams = ready;
			live.follow('team-1');
			void requests[0]?.lead();
			await vi.advanceTimersByTimeAsync(100);
			requests[0]?.lose(new Error('stolen'));
			await vi.advanceTimersByTimeAsync(100);
			expect([requests.map(({ steal }) => steal), events]).toEqual([[false, false], ['reset', 'reset']]);
			const beats = posted.length;
			await vi.advanceTimersByTimeAsync(12_000);
			expect(posted.length).toBe(beats);
			live.stop();
			expect(channel.closed).toBe(true);
			unsubscribe();
		});
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
