/** Follows the log of a build to its end, over lost connections. */
import { readEvents } from '$lib/api/event-stream';
import { ApiError } from '$lib/api/errors';
import { untilVisible, whenHidden } from '$lib/visibility';
import { pause } from '$lib/wait';
import { addEvent, emptyLog, type Log } from './log';

/** Output arrives in many small pieces; the page is updated this often. */
const SHOW_MS = 100;
const RETRY_MS = [500, 1_000, 2_000, 5_000];

export class BuildLog {
	/** Replaced as a whole when it has changed. */
	log = $state.raw<Log>(emptyLog());
	/** Why the log cannot be read at all. */
	error = $state.raw<ApiError | null>(null);
	#timer: ReturnType<typeof setTimeout> | null = null;

	/** Read until the build has ended or the signal is aborted. A hidden page pauses, as a browser has few connections to a host. */
	async follow(path: string, signal: AbortSignal): Promise<void> {
		const log = emptyLog();
		let lastEventId = '';
		let failures = 0;
		this.error = null;
		for (;;) {
			await untilVisible(signal);
			if (signal.aborted) return;
			const hidden = new AbortController();
			const stop = whenHidden(() => hidden.abort());
			try {
				for await (const event of readEvents(path, { signal: AbortSignal.any([signal, hidden.signal]), lastEventId })) {
					failures = 0;
					lastEventId = event.id;
					addEvent(log, event);
					this.#showSoon(log);
				}
			} catch (error) {
				if (error instanceof ApiError && error.status === 404) {
					this.error = error;
					return;
				}
			} finally {
				stop();
			}
			if (signal.aborted || log.end !== null) return;
			if (hidden.signal.aborted) continue;
			await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)] ?? 5_000, signal);
		}
	}

	#showSoon(log: Log): void {
		this.#timer ??= setTimeout(() => {
			this.#timer = null;
			this.log = { ...log, steps: [...log.steps], notes: [...log.notes] };
		}, SHOW_MS);
	}
}
