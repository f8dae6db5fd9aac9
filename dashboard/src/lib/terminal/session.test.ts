import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: '' }));
const { TerminalSession } = await import('./session.svelte');

/** The browser's class, as far as a stream uses it. */
class Socket {
	static readonly OPEN = 1;
	static all: Socket[] = [];
	readyState = Socket.OPEN;
	onopen: () => void = () => {};
	onclose: (() => void) | null = null;
	onmessage: (event: { data: unknown }) => void = () => {};
	send = vi.fn();
	close = vi.fn(() => (this.readyState = 3));

	constructor() {
		Socket.all.push(this);
	}
}

describe('TerminalSession', () => {
	const drawn: (() => void)[] = [];

	async function opened() {
		const session = new TerminalSession('sb-1', 'dashboard-1', { write: (_, __, done) => drawn.push(done), note: () => {} });
		session.attach();
		const socket = await vi.waitUntil(() => Socket.all[0]);
		socket.onmessage({ data: '{"type":"started","replayed":0,"missed":0}' });
		expect(session.state).toBe('open');
		return { session, socket };
	}

	beforeEach(() => {
		Socket.all = [];
		drawn.length = 0;
		vi.stubGlobal('WebSocket', Socket);
		vi.stubGlobal('location', { href: 'http://localhost/' });
	});
	afterEach(() => {
		vi.unstubAllGlobals();
		vi.useRealTimers();
	});

	it('attaches again when what came too fast has been drawn', async () => {
		const { session, socket } = await opened();
		socket.onmessage({ data: new ArrayBuffer(5 * 1024 * 1024) });
		expect([session.state, socket.readyState]).toEqual(['lost', 3]);
		drawn.forEach((done) => done());
		await vi.waitUntil(() => Socket.all.length === 2);
	});

	it('stays disconnected once it is closed, whatever is drawn afterwards', async () => {
		const { session, socket } = await opened();
		socket.onmessage({ data: new ArrayBuffer(10) });
		session.close();
		drawn.forEach((done) => done());
		await new Promise((done) => setTimeout(done));
		expect([session.state, socket.readyState, Socket.all.length]).toEqual(['lost', 3, 1]);
	});

	it('does not try again to connect once it is closed', async () => {
		const { session, socket } = await opened();
		vi.useFakeTimers();
		socket.onclose?.();
		session.close();
		session.attach();
		await vi.advanceTimersByTimeAsync(60_000);
		expect(Socket.all.length).toBe(1);
	});
});
