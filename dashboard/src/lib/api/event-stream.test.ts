import { describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: '' }));
const { EventParser } = await import('./event-stream');

describe('EventParser', () => {
	const text = 'id: 1-2\nevent: sandbox.paused\ndata: {"a":1}\n\n: still here\n\ndata: one\ndata: two\r\n\r\n';
	const events = [
		{ id: '1-2', type: 'sandbox.paused', data: '{"a":1}' },
		{ id: '1-2', type: 'message', data: 'one\ntwo' }
	];

	it('reads events, and no comment is one', () => {
		expect(new EventParser().feed(text)).toEqual(events);
	});

	it('does not depend on where the pieces are cut', () => {
		for (let cut = 0; cut <= text.length; cut++) {
			const parser = new EventParser();
			expect([...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut))]).toEqual(events);
		}
	});

	it('refuses a line that never ends', () => {
		const parser = new EventParser();
		expect(() => {
			for (let i = 0; i < 5; i++) parser.feed('x'.repeat(1024 * 1024));
		}).toThrow('too long');
	});
});
