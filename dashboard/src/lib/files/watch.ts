/** Follows what changes in a directory, while the page is visible. */
import { readEvents } from '$lib/api/event-stream';

const RETRY_MS = 5_000;
const GATHER_MS = 300;

/** Call `onchange` after changes in a directory until the returned function is called. */
export function watchDirectory(sandboxId: string, path: string, onchange: () => void): () => void {
	const end = new AbortController();
	let current: AbortController | null = null;
	let timer: ReturnType<typeof setTimeout> | undefined;
	const url = `/v1/sandboxes/${sandboxId}/files/watch?path=${encodeURIComponent(path)}`;

	async function follow(signal: AbortSignal): Promise<void> {
		while (!signal.aborted) {
			try {
				for await (const { type, data } of readEvents(url, { signal })) {
					const event = { type, ...(JSON.parse(data || '{}') as { type?: string }) };
					if (event.type === 'error') return; // paused, or the directory is gone: the page shows that
					// Many changes at once are one.
					if (event.type !== 'started') timer ??= setTimeout(() => ((timer = undefined), onchange()), GATHER_MS);
				}
			} catch {
				// The list is shown as it was; the next attempt may succeed.
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
	document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && onchange(), { signal: end.signal });
	change();
	return () => {
		end.abort();
		clearTimeout(timer);
	};
}
