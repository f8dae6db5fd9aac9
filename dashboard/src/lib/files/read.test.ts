import { describe, expect, it } from 'vitest';
import { ApiError } from '$lib/api/errors';
import { readUpTo } from './read';

/** A stream of these parts, and then the error if there is one. */
function streamOf(parts: string[], error?: Error): ReadableStream<Uint8Array<ArrayBuffer>> {
	const left = parts.map((part) => new TextEncoder().encode(part));
	return new ReadableStream({
		pull(controller) {
			const part = left.shift();
			if (part !== undefined) controller.enqueue(part);
			else if (error !== undefined) controller.error(error);
			else controller.close();
		}
	});
}

describe('readUpTo', () => {
	it('reads a stream to its end', async () => {
		expect(new TextDecoder().decode((await readUpTo(streamOf(['one ', 'two']), 7)) ?? undefined)).toBe('one two');
		expect(await readUpTo(streamOf([]), 0)).toEqual(new Uint8Array());
	});

	it('stops at what is too long', async () => {
		expect(await readUpTo(streamOf(['one ', 'two', 'three']), 6)).toBeNull();
	});

	it('says that the connection broke, as for any other call', async () => {
		const failure = await readUpTo(streamOf(['one'], new TypeError('network error')), 100).catch((error: unknown) => error);
		expect(failure).toBeInstanceOf(ApiError);
		expect(failure).toMatchObject({ code: 'unreachable', isTemporary: true });
	});
});
