import { unreachable } from '$lib/api/errors';

/** All of a stream; null if it is longer than `limit` bytes. Throws `ApiError` if it breaks off. */
export async function readUpTo(stream: ReadableStream<Uint8Array<ArrayBuffer>>, limit: number): Promise<Uint8Array<ArrayBuffer> | null> {
	const parts: Uint8Array<ArrayBuffer>[] = [];
	let size = 0;
	const reader = stream.getReader();
	for (;;) {
		let part: ReadableStreamReadResult<Uint8Array<ArrayBuffer>>;
		try {
			part = await reader.read();
		} catch {
			throw unreachable();
		}
		if (part.done) return new Uint8Array(await new Blob(parts).arrayBuffer());
		parts.push(part.value);
		size += part.value.length;
		if (size <= limit) continue;
		void reader.cancel().catch(() => {});
		return null;
	}
}
