/** What a form or button sends: whether it is under way, and why the last attempt failed, to be shown where it was made. */
import { ApiError } from '$lib/api/errors';

export class Submission {
	busy = $state(false);
	error = $state<unknown>(null);

	/** A handler that does `work`. A refusal is kept in `error`; a fault of the page is also thrown, so that it is reported. */
	handler(work: () => Promise<void> | void): (event?: Event) => Promise<void> {
		return async (event) => {
			event?.preventDefault();
			this.busy = true;
			this.error = null;
			try {
				await work();
			} catch (failure) {
				this.error = failure;
				if (!(failure instanceof ApiError)) throw failure;
			} finally {
				this.busy = false;
			}
		};
	}
}
