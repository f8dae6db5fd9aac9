/** The steps of creates, pauses and resumes, as the event stream tells them: while they take long, and when they are done. */
import { SvelteMap } from 'svelte/reactivity';
import { live, type LiveEvent } from './live.svelte';

export interface Step {
	name: string;
	ms: number;
}

export interface Progress {
	operation: 'create' | 'pause' | 'resume';
	steps: Step[];
	isDone: boolean;
}

const ENDS: Record<string, Progress['operation']> = {
	'sandbox.running': 'create',
	'sandbox.paused': 'pause',
	'sandbox.resumed': 'resume'
};
const SHOWN_AFTER_END_MS = 15_000;

class OperationSteps {
	#progress = new SvelteMap<string, Progress>();

	constructor() {
		live.subscribe((event) => this.#hear(event));
	}

	/** What is known of the operation under way, or of one that has just ended. */
	of(sandboxId: string): Progress | undefined {
		return this.#progress.get(sandboxId);
	}

	#hear(event: LiveEvent): void {
		const id = event.resource_id;
		const steps = event.data['steps'] as Step[] | undefined;
		if (event.type === 'sandbox.progress') {
			const operation = event.data['operation'] as Progress['operation'];
			this.#progress.set(id, { operation, steps: steps ?? [], isDone: false });
			return;
		}
		const operation = ENDS[event.type];
		if (operation === undefined) {
			if (event.type === 'sandbox.error' || event.type === 'sandbox.destroyed') this.#progress.delete(id);
			return;
		}
		// The end has no steps if an event before it had them all.
		const former = this.#progress.get(id);
		const all = steps ?? (former?.operation === operation ? former.steps : []);
		if (all.length === 0) {
			this.#progress.delete(id);
			return;
		}
		const ended: Progress = { operation, steps: all, isDone: true };
		this.#progress.set(id, ended);
		setTimeout(() => {
			if (this.#progress.get(id) === ended) this.#progress.delete(id);
		}, SHOWN_AFTER_END_MS);
	}
}

export const operationSteps = new OperationSteps();
