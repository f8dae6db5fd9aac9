/**
 * Data of a page: loaded, kept while it is loaded again, with the error of the last attempt beside it. A page shows a
 * skeleton only as long as `value` is undefined, and never replaces what it has by an error. What failed for a while
 * (no answer, no database) is loaded again while the page is visible: when the event stream is back, and after some seconds
 * if it never broke off. All of that ends with the component that made the resource.
 */
import { ApiError, unreachable } from '$lib/api/errors';
import { untilVisible } from '$lib/visibility';
import { live } from './live.svelte';

const RETRY_MS = 5_000;
/** No answer of the control plane takes longer than 15 s; a preview of 2 MiB over a slow line may. */
const LOAD_LIMIT_MS = 60_000;

interface Load {
	inputs: string;
	/** Ends the calls of this load. */
	end: AbortController;
	/** Resolves when it is over, whatever came of it. */
	over: Promise<void>;
	/** The load that begins when this one is over. */
	next: Promise<void> | null;
}

interface Options {
	/** What the load depends on, as text. A load for other inputs replaces the one under way. */
	inputs?: () => string;
	/** Whether it outlives the component that makes it. */
	isShared?: boolean;
}

export class Resource<T> {
	value = $state.raw<T | undefined>(undefined);
	error = $state.raw<ApiError | null>(null);
	isLoading = $state(false);
	#load: (signal: AbortSignal) => Promise<T>;
	#inputs: () => string;
	#running: Load | null = null;
	#retry: AbortController | null = null;
	#isClosed = false;

	/** `load` may hand its signal to calls, which then end with the component; without that their answers are ignored. */
	constructor(load: (signal: AbortSignal) => Promise<T>, { inputs = () => '', isShared = false }: Options = {}) {
		this.#load = load;
		this.#inputs = inputs;
		if (!isShared) $effect.pre(() => () => this.close());
	}

	/**
	 * Load again; resolves when what is shown is no older than this call. While the same is being loaded, one more load begins
	 * after it: each answer is shown, however often this is called.
	 */
	reload = (): Promise<void> => {
		const inputs = this.#inputs();
		const running = this.#running;
		if (this.#isClosed) return Promise.resolve();
		if (running !== null && running.inputs === inputs) return (running.next ??= running.over.then(this.reload));
		return this.#begin(inputs);
	};

	/** End all calls and attempts; nothing changes any more. */
	close(): void {
		this.#isClosed = true;
		this.#retry?.abort();
		this.#running?.end.abort(unreachable());
		this.#running = null;
	}

	#begin(inputs: string): Promise<void> {
		this.#retry?.abort();
		this.#running?.end.abort(unreachable());
		this.isLoading = true;
		const running: Load = { inputs, end: new AbortController(), over: Promise.resolve(), next: null };
		this.#running = running;
		const done = this.#run(running);
		running.over = done.catch(() => {});
		return done;
	}

	async #run(running: Load): Promise<void> {
		const { signal } = running.end;
		const deadline = setTimeout(() => running.end.abort(unreachable()), LOAD_LIMIT_MS);
		const isCurrent = () => this.#running === running;
		try {
			const value = await Promise.race([this.#load(signal), whenAborted(signal)]);
			if (!isCurrent()) return;
			this.value = value;
			this.error = null;
		} catch (error) {
			if (!isCurrent()) return;
			this.error = error instanceof ApiError ? error : new ApiError(0, 'failed', 'This could not be shown.');
			if (!(error instanceof ApiError)) throw error;
			if (error.isTemporary) this.#reloadLater();
		} finally {
			clearTimeout(deadline);
			if (isCurrent()) {
				this.#running = null;
				this.isLoading = false;
			}
		}
	}

	/** Load again when that may succeed and somebody sees it, unless something else does so first. */
	#reloadLater(): void {
		const end = (this.#retry = new AbortController());
		const retry = async () => {
			await untilVisible(end.signal);
			if (!end.signal.aborted) void this.reload();
		};
		const forget = live.whenBack(() => void retry());
		const timer = setTimeout(() => live.isLive && void retry(), RETRY_MS);
		end.signal.addEventListener('abort', () => {
			clearTimeout(timer);
			forget();
		});
	}
}

/** Rejects with the reason of the signal when it is aborted. */
const whenAborted = (signal: AbortSignal): Promise<never> =>
	new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true }));
