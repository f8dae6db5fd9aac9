/** Destroying with a way back: the call is sent after five seconds, unless somebody says Undo. */
import { sandboxes } from './sandboxes.svelte';
import { toasts } from './toasts.svelte';
import { counted } from '$lib/text';

const UNDO_MS = 5_000;
const waiting = new Map<string, () => Promise<void>>();

/** Destroy sandboxes in five seconds, or at once when the page is left. */
export function destroyLater(ids: string[]): void {
	const fresh = ids.filter((id) => !waiting.has(id));
	if (fresh.length === 0) return;
	const send = async () => {
		clearTimeout(timer);
		closeToast();
		for (const id of fresh) waiting.delete(id);
		const results = await Promise.allSettled(fresh.map((id) => sandboxes.act(id, 'destroy')));
		const failures = results.filter((result) => result.status === 'rejected');
		if (failures[0]) toasts.failed(`${counted(failures.length, 'sandbox', 'sandboxes')} not destroyed`, failures[0].reason);
	};
	const undo = () => {
		clearTimeout(timer);
		for (const id of fresh) {
			waiting.delete(id);
			sandboxes.markDestroyed(id, false);
		}
	};
	const timer = setTimeout(() => void send(), UNDO_MS);
	for (const id of fresh) {
		waiting.set(id, send);
		sandboxes.markDestroyed(id, true);
	}
	const closeToast = toasts.done(
		`${counted(fresh.length, 'sandbox', 'sandboxes')} will be destroyed.`,
		{ label: 'Undo', run: undo },
		UNDO_MS
	);
}

/** Send what still waits: the page or the team is being left. */
export async function destroyNow(): Promise<void> {
	await Promise.all([...new Set(waiting.values())].map((send) => send()));
}
