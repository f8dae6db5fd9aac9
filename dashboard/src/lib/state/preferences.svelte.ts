/** What somebody chose for this browser: theme, time zone, keys. Without storage the choice lasts as long as the page. */

export type Theme = 'system' | 'dark' | 'light';
export type Zone = 'local' | 'utc';

function read(key: string): string | null {
	try {
		return localStorage.getItem(key);
	} catch {
		return null;
	}
}

function write(key: string, value: string): void {
	try {
		localStorage.setItem(key, value);
	} catch {
		// Storage is blocked.
	}
}

class Preferences {
	theme = $state<Theme>('system');
	zone = $state<Zone>('local');
	/** Whether keys without Ctrl or Alt do something. Speech input presses them by accident. */
	hasSingleKeys = $state(true);

	constructor() {
		if (typeof window === 'undefined') return;
		const theme = read('wrenn-theme');
		if (theme === 'dark' || theme === 'light') this.theme = theme;
		if (read('wrenn-zone') === 'utc') this.zone = 'utc';
		this.hasSingleKeys = read('wrenn-single-keys') !== 'off';
	}

	setTheme(theme: Theme): void {
		this.theme = theme;
		write('wrenn-theme', theme);
		if (theme === 'system') delete document.documentElement.dataset.theme;
		else document.documentElement.dataset.theme = theme;
	}

	setZone(zone: Zone): void {
		this.zone = zone;
		write('wrenn-zone', zone);
	}

	setSingleKeys(isOn: boolean): void {
		this.hasSingleKeys = isOn;
		write('wrenn-single-keys', isOn ? 'on' : 'off');
	}

	// Made once for a zone: making one costs much more than formatting a time.
	#format = $derived(
		new Intl.DateTimeFormat('en-GB', {
			day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit',
			timeZone: this.zone === 'utc' ? 'UTC' : undefined,
			timeZoneName: 'short'
		})
	); // prettier-ignore

	/** A point in time with its zone, such as `29 Nov 2026, 12:03:10 UTC`. */
	time(at: number | string): string {
		return this.#format.format(new Date(at));
	}
}

export const preferences = new Preferences();
