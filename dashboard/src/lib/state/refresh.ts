/** When a page loads its data again. Both functions return what ends it, so an effect can return their result. */
import { untilVisible } from '$lib/visibility';
import { pause } from '$lib/wait';
import { live, type LiveEvent } from './live.svelte';

/** Changes that arrive together are read by one load. */
const GATHER_MS = 100;
/** From the end of one load to the next, however many changes there are. */
const PAUSE_MS = 1_000;

/** Load again after events that `matches`, and after a gap in the stream: one load at a time, and only while the page is visible. */
export function reloadOnEvents(matches: (event: LiveEvent) => boolean, reload: () => Promise<void>): () => void {
	const end = new AbortController();
	let hasChanged = false;
	let isReloading = false;

	async function reloadChanged(): Promise<void> {
		isReloading = true;
		try {
			await pause(GATHER_MS, end.signal);
			while (hasChanged) {
				await untilVisible(end.signal);
				if (end.signal.aborted) return;
				hasChanged = false;
				await reload();
				await pause(PAUSE_MS, end.signal);
			}
		} finally {
			isReloading = false;
		}
	}

	const stop = live.subscribe((event) => {
		if (event.type !== 'reset' && !matches(event)) return;
		hasChanged = true;
		if (!isReloading) void reloadChanged();
	});
	return () => {
		stop();
		end.abort();
	};
}

/** The event `audit.recorded` of one kind of resource. */
export const recordedFor =
	(...resources: string[]) =>
	(event: LiveEvent): boolean =>
		event.type === 'audit.recorded' && resources.includes(String(event.data['resource_type']));

/** Load again when the tab is shown again: for data whose changes are no events that everybody gets. */
export function reloadOnFocus(reload: () => Promise<void>): () => void {
	const change = () => {
		if (document.visibilityState === 'visible') void reload();
	};
	document.addEventListener('visibilitychange', change);
	return () => document.removeEventListener('visibilitychange', change);
}
