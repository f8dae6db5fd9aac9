/** A stream of server-sent events that a page reads while it is visible. */
import { pause } from '$lib/wait';
import { ApiError } from './errors';
import { readEvents } from './event-stream';

const RETRY_MS = 5_000;
/** After a refusal: what is followed does not exist, but it may be made; or there are too many streams. */
const RETRY_REFUSED_MS = 10_000;

interface Handlers<Data> {
	onevent: (data: Data) => void;
	/**
	 * What happened before was not seen, and should be loaded: a stream begins after another attempt, or is refused again. So a page that gets no
	 * stream loads every ten seconds.
	 */
	onmissed?: () => void;
	/** Whether the stream is read now; not called before the first attempt has an end. */
	onlive?: (isLive: boolean) => void;
}

/** Follow a stream until the returned function is called. */
export function followWhileVisible<Data extends { type?: string }>(path: string, { onevent, onmissed = () => {}, onlive = () => {} }: Handlers<Data>): () => void {
	const end = new AbortController();
	let current: AbortController | null = null;
	let attempts = 0;

	/** Follow one stream to its end; returns after how long to try again. */
	async function followOnce(signal: AbortSignal): Promise<number> {
		let hasMissed = attempts++ > 0;
		let wait = RETRY_MS;
		try {
			for await (const event of readEvents(path, { signal })) {
				const data = JSON.parse(event.data) as Data;
				if (data.type === 'error') break;
				if (hasMissed) onmissed();
				hasMissed = false;
				onlive(true);
				onevent(data);
			}
		} catch (error) {
			// What is shown stays as it was; the next attempt may succeed. Without an answer, or a session, nothing can be loaded either.
			if (error instanceof ApiError && error.status > 0 && error.status !== 401) {
				if (hasMissed) onmissed();
				wait = RETRY_REFUSED_MS;
			}
		}
		if (!signal.aborted) onlive(false);
		return wait;
	}

	async function follow(signal: AbortSignal): Promise<void> {
		while (!signal.aborted) await pause(await followOnce(signal), signal);
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
