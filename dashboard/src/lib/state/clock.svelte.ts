/** The time, once a second, for all ages and countdowns of a page together. */
class Clock {
	now = $state(Date.now());

	constructor() {
		if (typeof window !== 'undefined') setInterval(() => (this.now = Date.now()), 1_000);
	}
}

export const clock = new Clock();
