/** Short messages in a corner of the page: what was done, and a way to undo it. */
import { ApiError } from '$lib/api/errors';
import { visible } from '$lib/text';

export interface Toast {
	id: number;
	kind: 'done' | 'error';
	text: string;
	detail?: string;
	action?: { label: string; run: () => void };
}

const SHOWN_MS = 6_000;
const MOST_WITHOUT_ACTION = 4;

class Toasts {
	shown = $state<Toast[]>([]);
	#next = 1;

	/** Show a message for some seconds; returns a function that removes it. */
	done(text: string, action?: Toast['action'], shownMs = SHOWN_MS): () => void {
		return this.#show({ kind: 'done', text, action }, shownMs);
	}

	/** Show why something failed, until it is closed. */
	failed(what: string, error: unknown): void {
		const text = error instanceof Error ? error.message : String(error);
		const requestId = error instanceof ApiError ? error.requestId : '';
		this.#show({ kind: 'error', text: `${what}: ${visible(text)}`, detail: requestId && `request ${requestId}` }, 0);
	}

	/** Run the newest action that a shown message offers. */
	undo(): void {
		const toast = this.shown.findLast((candidate) => candidate.action !== undefined);
		if (toast === undefined) return;
		toast.action?.run();
		this.close(toast.id);
	}

	close(id: number): void {
		this.shown = this.shown.filter((toast) => toast.id !== id);
	}

	#show(toast: Omit<Toast, 'id'>, shownMs: number): () => void {
		const id = this.#next++;
		// A way to undo something is not pushed out by later messages.
		const others = this.shown.filter((known) => known.action === undefined).slice(-MOST_WITHOUT_ACTION);
		this.shown = [...this.shown.filter((known) => known.action !== undefined || others.includes(known)), { ...toast, id }];
		const close = () => this.close(id);
		if (shownMs > 0) setTimeout(close, shownMs);
		return close;
	}
}

export const toasts = new Toasts();
