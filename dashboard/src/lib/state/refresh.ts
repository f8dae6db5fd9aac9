/** When a page loads its data again. Both functions return what ends it, so an effect can return their result. */
import { live, type LiveEvent } from './live.svelte';

/** Changes that arrive together are read by one load. */
const GATHER_MS = 100;

/** Load again after each event that `matches`, and after a gap in the stream. */
export function reloadOnEvents(matches: (event: LiveEvent) => boolean, reload: () => Promise<void>): () => void {
	let timer: ReturnType<typeof setTimeout> | null = null;
	const end = live.subscribe((event) => {
		if (event.type !== 'reset' && !matches(event)) return;
		timer ??= setTimeout(() => {
			timer = null;
			void reload();
		}, GATHER_MS);
	});
	return () => {
		if (timer !== null) clearTimeout(timer);
		end();
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
