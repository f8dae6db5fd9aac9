/** Leaving a page that is not for its user any more, unless there is something on it that was typed and not sent. */
import { base } from '$app/paths';

/** Another user has signed in in this browser, or the user is no longer in the team that is shown. */
export type Cause = 'user' | 'team';

class Departure {
	/** Called instead of leaving, once for each cause, while something is unsaved. */
	onpostponed: (cause: Cause) => void = () => {};
	/** The user has decided to leave. */
	isAllowed = false;
	#guards = new Set<() => boolean>();
	#postponed = new Set<Cause>();

	/** Something may be unsaved, until the returned function is called. */
	guard(isUnsaved: () => boolean): () => void {
		this.#guards.add(isUnsaved);
		return () => this.#guards.delete(isUnsaved);
	}

	/** Begin anew at the first page: what this page shows is not for who is signed in now. */
	begin(cause: Cause): void {
		if (![...this.#guards].some((isUnsaved) => isUnsaved())) return this.finish();
		// Whoever stays to copy the text is not asked again and again.
		if (this.#postponed.has(cause)) return;
		this.#postponed.add(cause);
		this.onpostponed(cause);
	}

	finish(): void {
		this.isAllowed = true;
		location.assign(`${base}/`);
	}
}

export const departure = new Departure();
