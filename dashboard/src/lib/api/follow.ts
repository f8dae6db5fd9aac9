/** A stream of server-sent events that a page reads while it is visible. */
import { ApiError } from './errors';
import { readEvents } from './event-stream';

const RETRY_MS = 5_000;

/**
 * Call `onevent` with the data of each event until the returned function is called. A refusal or an event `error` is the end: the page
 * shows its reason by what it loads. `onshown` is called when the page is visible again: what happened meanwhile was not seen.
 */
export function followWhileVisible<Data extends { type?: string }>(path: string, onevent: (data: Data) => void, onshown: () => void = () => {}): () => void {
	const end = new AbortController();
	let current: AbortController | null = null;

	async function follow(signal: AbortSignal): Promise<void> {
		while (!signal.aborted) {
			try {
				for await (const event of readEvents(path, { signal })) {
					const data = JSON.parse(event.data) as Data;
					if (data.type === 'error') return;
					onevent(data);
				}
			} catch (error) {
				// What is shown stays as it was; the next attempt may succeed.
				if (error instanceof ApiError && !error.isTemporary && error.status !== 401) return;
			}
			await new Promise((done) => setTimeout(done, RETRY_MS));
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
	document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && onshown(), { signal: end.signal });
	change();
	return () => end.abort();
}
