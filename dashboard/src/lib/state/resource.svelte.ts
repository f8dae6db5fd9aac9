/**
 * Data of a page: loaded, kept while it is loaded again, with the error of the last attempt beside it. A page shows a
 * skeleton only as long as `value` is undefined, and never replaces what it has by an error. What failed for a while
 * (no answer, no database) is loaded again: when the event stream is back, and after some seconds if it never broke off.
 */
import { ApiError } from '$lib/api/errors';
import { live } from './live.svelte';

const RETRY_MS = 5_000;

export class Resource<T> {
	value = $state.raw<T | undefined>(undefined);
	error = $state.raw<ApiError | null>(null);
	isLoading = $state(false);
	#load: () => Promise<T>;
	#round = 0;

	constructor(load: () => Promise<T>) {
		this.#load = load;
	}

	/** Load again. Of several loads at once the one that began last counts. */
	reload = async (): Promise<void> => {
		const round = ++this.#round;
		this.isLoading = true;
		try {
			const value = await this.#load();
			if (round !== this.#round) return;
			this.value = value;
			this.error = null;
		} catch (error) {
			if (round !== this.#round) return;
			this.error = error instanceof ApiError ? error : new ApiError(0, 'failed', 'This could not be shown.');
			if (!(error instanceof ApiError)) throw error;
			if (error.isTemporary) this.#reloadLater(round);
		} finally {
			if (round === this.#round) this.isLoading = false;
		}
	};

	/** Load again, unless something else did meanwhile. */
	#reloadLater(round: number): void {
		const retry = () => {
			if (round === this.#round) void this.reload();
		};
		live.whenBack(retry);
		setTimeout(() => live.isLive && retry(), RETRY_MS);
	}
}
