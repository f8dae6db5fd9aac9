const TOLERATED_MS = 10_000;

/** The time of the server, once a second, for all ages and countdowns of a page together: the browser's clock may be wrong. */
class Clock {
	now = $state(Date.now());
	#offsetMs = 0;

	constructor() {
		if (typeof window !== 'undefined') setInterval(() => (this.now = Date.now() + this.#offsetMs), 1_000);
	}

	/** Use the `Date` of an answer, which has whole seconds. Small differences are left as they are. */
	learn(date: string | null): void {
		const offsetMs = date === null ? NaN : Date.parse(date) - Date.now();
		if (Math.abs(offsetMs - this.#offsetMs) < TOLERATED_MS || Number.isNaN(offsetMs)) return;
		this.#offsetMs = Math.abs(offsetMs) < TOLERATED_MS ? 0 : offsetMs;
		this.now = Date.now() + this.#offsetMs;
	}
}

export const clock = new Clock();
