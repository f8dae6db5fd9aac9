import { describe, expect, it } from 'vitest';
import { OutputPosition } from './position';

const text = (part: Uint8Array) => new TextDecoder().decode(part);
const bytes = (part: string) => new TextEncoder().encode(part);

describe('OutputPosition', () => {
	it('shows all of a stream that begins with the process', () => {
		const position = new OutputPosition();
		expect(position.begin(0, 0)).toBe(0);
		const { fresh, isReplay } = position.take(bytes('hello'));
		expect([text(fresh), isReplay]).toEqual(['hello', false]);
	});

	it('marks output from before the stream, however it is cut', () => {
		const position = new OutputPosition();
		expect(position.begin(6, 100)).toBe(100);
		expect(position.take(bytes('abc')).isReplay).toBe(true);
		expect(position.take(bytes('def')).isReplay).toBe(true);
		expect(position.take(bytes('new')).isReplay).toBe(false);
	});

	it('shows nothing twice after a reconnection', () => {
		const position = new OutputPosition();
		position.begin(0, 0);
		position.take(bytes('0123456789'));
		expect(position.begin(14, 0)).toBe(0);
		expect(text(position.take(bytes('01234')).fresh)).toBe('');
		const rest = position.take(bytes('56789abcd'));
		expect([text(rest.fresh), rest.isReplay]).toEqual(['abcd', true]);
		expect(position.take(bytes('new')).isReplay).toBe(false);
	});

	it('counts what was discarded between two connections', () => {
		const position = new OutputPosition();
		position.begin(0, 0);
		position.take(bytes('0123456789'));
		expect(position.begin(3, 15)).toBe(5);
		expect(text(position.take(bytes('fgh')).fresh)).toBe('fgh');
		expect(position.begin(3, 15)).toBe(0);
		expect(text(position.take(bytes('fghi')).fresh)).toBe('i');
	});
});
