/** The colours of the theme in use, for what is drawn by scripts. */

/** The value of a colour of `app.css`, such as `accent`. */
export function themeColour(name: string): string {
	return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Call `onchange` when the theme has changed, until the returned function is called. */
export function followTheme(onchange: () => void): () => void {
	const end = new AbortController();
	matchMedia('(prefers-color-scheme: dark)').addEventListener('change', onchange, { signal: end.signal });
	const observer = new MutationObserver(onchange);
	observer.observe(document.documentElement, { attributeFilter: ['data-theme'] });
	return () => {
		end.abort();
		observer.disconnect();
	};
}
