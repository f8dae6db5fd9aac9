/** A stream of server-sent events that a page reads while it is visible. */
import { ApiError } from './errors';
import { readEvents } from './event-stream';

const RETRY_MS = 5_000;
/** After a refusal: what is followed does not exist, but it may be made. */
const RETRY_REFUSED_MS = 30_000;

/**
 * Call `onevent` with the data of each event until the returned function is called. The page shows by what it loads why there is no
 * stream. `onmissed` is called when one begins or is refused after another attempt: what happened between them was not seen.
 */
export function followWhileVisible<Data extends { type?: string }>(path: string, onevent: (data: Data) => void, onmissed: () => void = () => {}): () => void {
	const end = new AbortController();
	let current: AbortController | null = null;
	let attempts = 0;

	/** Follow one stream to its end; returns after how long to try again. */
	async function followOnce(signal: AbortSignal): Promise<number> {
		let hasMissed = attempts++ > 0;
		try {
			for await (const event of readEvents(path, { signal })) {
				const data = JSON.parse(event.data) as Data;
				if (data.type === 'error') break;
				if (hasMissed) onmissed();
				hasMissed = false;
				onevent(data);
			}
		} catch (error) {
			// What is shown stays as it was; the next attempt may succeed.
			if (error instanceof ApiError && !error.isTemporary && error.status !== 401) {
				if (hasMissed) onmissed();
				return RETRY_REFUSED_MS;
			}
		}
		return RETRY_MS;
	}

	async function follow(signal: AbortSignal): Promise<void> {
		while (!signal.aborted) {
			const wait = await followOnce(signal);
			await new Promise((done) => setTimeout(done, wait));
		}
	}

	// A browser has six connections to a host over HTTP/1.1, and hidden tabs must not use them up.
	const change = () => {
		if (document.visibilityState === 'visible' && current === null) {
			current = new AbortController();
			void follow(AbortSignal.any([end.signal, current.signal]));
		} else if (document.visibilityState === 'hidden') {
			current?.abort();
			current = null;
		}
	};
	document.addEventListener('visibilitychange', change, { signal: end.signal });
	change();
	return () => end.abort();
}
