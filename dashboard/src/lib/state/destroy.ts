/** Destroying with a way back: the calls are sent after five seconds, unless somebody says Undo. */
import { forEach } from '$lib/parallel';
import { sandboxes } from './sandboxes.svelte';
import { session } from './session.svelte';
import { toasts } from './toasts.svelte';
import { counted } from '$lib/text';

const UNDO_MS = 5_000;
/** Calls that Chromium sends for a page that has been left; it refuses further ones. */
const WHILE_LEAVING = 250;

/** Sandboxes whose call has not been sent yet. */
const unsent = new Set<string>();
/** Send the calls of those that can still be undone. */
const waiting = new Set<() => Promise<void>>();

/** Destroy sandboxes in five seconds, or at once when the page is left. */
export function destroyLater(ids: string[]): void {
	const fresh = ids.filter((id) => !unsent.has(id));
	if (fresh.length === 0) return;
	const stopWaiting = () => {
		clearTimeout(timer);
		waiting.delete(send);
	};
	const send = async () => {
		stopWaiting();
		closeToast();
		const failures = await forEach(fresh, async (id) => unsent.delete(id) && (await sandboxes.act(id, 'destroy')));
		if (failures.length > 0) toasts.failed(`${counted(failures.length, 'sandbox', 'sandboxes')} not destroyed`, failures[0]);
	};
	const undo = () => {
		stopWaiting();
		for (const id of fresh) {
			unsent.delete(id);
			sandboxes.markDestroyed(id, false);
		}
	};
	const timer = setTimeout(() => void send(), UNDO_MS);
	waiting.add(send);
	for (const id of fresh) {
		unsent.add(id);
		sandboxes.markDestroyed(id, true);
	}
	const closeToast = toasts.done(
		`${counted(fresh.length, 'sandbox', 'sandboxes')} will be destroyed.`,
		{ label: 'Undo', run: undo },
		UNDO_MS
	);
}

/** Send what still waits: the team is being left. */
async function destroyNow(): Promise<void> {
	await Promise.all([...waiting].map((send) => send()));
}

/** Send what has not been sent, in a way that outlives the page. */
export function destroyWhileLeaving(): void {
	for (const id of unsent) void sandboxes.act(id, 'destroy', { keepalive: true }).catch(() => {});
	unsent.clear();
}

/** Whether a page that is left now could not send all that it should. */
export const hasMuchToDestroy = (): boolean => unsent.size > WHILE_LEAVING;

session.beforeLeaving = destroyNow;
