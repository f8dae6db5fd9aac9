import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LiveEvent } from './live.svelte';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { live } = await import('./live.svelte');
let hear: (event: LiveEvent) => void = () => {};
vi.spyOn(live, 'subscribe').mockImplementation((listener) => {
	hear = listener;
	return () => {};
});
const { sandboxes } = await import('./sandboxes.svelte');

describe('sandboxes', () => {
	const page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
	let rows: Record<string, unknown>[] = [];
	let answerAfterMs = 10;
	const asked: string[] = [];
	const row = (id: string, status = 'running') => ({ id, status, name: id, metadata: { colour: 'green' } });
	const event = (type: string, id: string, data: Record<string, unknown> = {}): LiveEvent => ({ type, resource_id: id, at: '', data });

	beforeEach(async () => {
		vi.useFakeTimers();
		page.visibilityState = 'visible';
		[rows, answerAfterMs] = [[row('a'), row('b')], 10];
		vi.stubGlobal('document', page);
		vi.stubGlobal('fetch', async (request: Request) => {
			const path = new URL(request.url).pathname.replace('/v1/sandboxes', '');
			asked.push(`${request.method} ${path}`);
			const body = path === '' ? rows : rows.find(({ id }) => path === `/${id}`);
			await new Promise((done) => setTimeout(done, answerAfterMs));
			return body === undefined ? Response.json({}, { status: 404 }) : Response.json(body);
		});
		sandboxes.enter(`team ${Math.random()}`);
		void sandboxes.show();
		await vi.advanceTimersByTimeAsync(100);
		asked.length = 0;
	});
	afterEach(() => {
		vi.useRealTimers();
		vi.unstubAllGlobals();
	});

	it('shows what an event says without a call', async () => {
		hear(event('sandbox.paused', 'a', { status: 'paused', name: 'renamed', expires_at: null, reason: 'idle' }));
		await vi.advanceTimersByTimeAsync(1_000);
		expect(sandboxes.rows.get('a')).toEqual({ id: 'a', status: 'paused', name: 'renamed', expires_at: null, metadata: { colour: 'green', reason: 'idle' } });
		hear(event('sandbox.resumed', 'a', { status: 'running' }));
		hear(event('sandbox.updated', 'b', { public_ports: [80] }));
		expect(sandboxes.rows.get('a')?.metadata).toEqual({ colour: 'green' });
		expect(sandboxes.rows.get('b')?.public_ports).toEqual([80]);
		hear(event('sandbox.destroyed', 'b', { status: 'stopped' }));
		await vi.advanceTimersByTimeAsync(1_000);
		expect([[...sandboxes.rows.keys()], asked]).toEqual([['a'], []]);
	});

	it('remembers how one ended', async () => {
		hear(event('sandbox.error', 'a', { status: 'error', reason: 'Its host is gone.' }));
		rows = [{ ...row('b', 'error'), metadata: { reason: 'as read' } }];
		const read = sandboxes.read('b');
		await vi.advanceTimersByTimeAsync(20);
		await read;
		expect([...sandboxes.rows.keys()]).toEqual([]);
		expect([...sandboxes.ended.values()].map(({ status, metadata }) => [status, metadata?.['reason']])).toEqual([
			['error', 'Its host is gone.'],
			['error', 'as read']
		]);
		sandboxes.enter('another team');
		expect(sandboxes.ended.size).toBe(0);
	});

	it('reads what an event does not have', async () => {
		rows.push(row('c'));
		hear(event('sandbox.created', 'c', { status: 'pending' }));
		hear(event('sandbox.updated', 'a', { metadata_changed: true }));
		await vi.advanceTimersByTimeAsync(200);
		expect([asked, sandboxes.rows.get('c')]).toEqual([['GET /c', 'GET /a'], row('c')]);
		const end = sandboxes.keepWhole('b');
		hear(event('sandbox.paused', 'b', { status: 'paused' }));
		await vi.advanceTimersByTimeAsync(200);
		end();
		hear(event('sandbox.paused', 'b', { status: 'paused' }));
		await vi.advanceTimersByTimeAsync(200);
		expect(asked.slice(2)).toEqual(['GET /b']);
	});

	it('drops an answer that is older than an event', async () => {
		rows.push(row('c'));
		hear(event('sandbox.created', 'c', { status: 'running' }));
		answerAfterMs = 300;
		await vi.advanceTimersByTimeAsync(150);
		expect(asked).toEqual(['GET /c']);
		hear(event('sandbox.destroyed', 'c', { status: 'stopped' }));
		await vi.advanceTimersByTimeAsync(1_000);
		expect([...sandboxes.rows.keys()]).toEqual(['a', 'b']);

		// The answer still has the old state; what is read again does not.
		const read = sandboxes.read('a');
		await vi.advanceTimersByTimeAsync(100);
		hear(event('sandbox.paused', 'a', { status: 'paused' }));
		rows[0] = row('a', 'paused');
		await vi.advanceTimersByTimeAsync(201);
		expect((await read)?.status).toBe('paused');
		expect(sandboxes.rows.get('a')?.status).toBe('paused');
		await vi.advanceTimersByTimeAsync(1_000);
		expect([asked, sandboxes.rows.get('a')]).toEqual([['GET /c', 'GET /a', 'GET /a'], row('a', 'paused')]);
	});

	it('reads one list after the other under steady creates, and shows what each of them has', async () => {
		answerAfterMs = 300;
		for (let count = 0; count < 200; count++) {
			rows.push(row(`new ${count}`));
			hear(event('sandbox.created', `new ${count}`, { status: 'pending' }));
			await vi.advanceTimersByTimeAsync(20);
		}
		const shown = sandboxes.rows.size;
		expect(shown).toBeGreaterThan(100);
		expect(asked.length).toBeLessThan(20);
		await vi.advanceTimersByTimeAsync(5_000);
		expect(sandboxes.rows.size).toBe(202);
	});

	it('asks for nothing in a hidden tab, and for all that changed when it is shown', async () => {
		page.visibilityState = 'hidden';
		for (let count = 0; count < 20; count++) hear(event('sandbox.created', `gone ${count}`));
		hear(event('sandbox.paused', 'a', { status: 'paused' }));
		await vi.advanceTimersByTimeAsync(60_000);
		expect([asked, sandboxes.rows.get('a')?.status]).toEqual([[], 'paused']);
		rows = [row('a', 'paused')];
		page.visibilityState = 'visible';
		page.dispatchEvent(new Event('visibilitychange'));
		await vi.advanceTimersByTimeAsync(1_000);
		expect([asked, [...sandboxes.rows.keys()]]).toEqual([['GET '], ['a']]);
	});

	it('keeps an event that is newer than the list being read, and reads the rest of its row', async () => {
		answerAfterMs = 300;
		hear(event('reset', ''));
		await vi.advanceTimersByTimeAsync(100);
		rows = [{ ...row('a', 'paused'), metadata: { colour: 'red' } }, row('b')];
		hear(event('sandbox.paused', 'a', { status: 'paused' }));
		hear(event('sandbox.destroyed', 'b'));
		await vi.advanceTimersByTimeAsync(2_000);
		expect(asked).toEqual(['GET ', 'GET /a']);
		expect([...sandboxes.rows.values()]).toEqual([rows[0]]);
	});
});
