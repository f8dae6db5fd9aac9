/** Repeats something while the page is visible. Only for what no event tells. */
export function whileVisible(everyMs: number, run: () => Promise<unknown>): () => void {
	let timer: ReturnType<typeof setTimeout> | undefined;
	let isStopped = false;
	let isBusy = false;

	async function next(): Promise<void> {
		timer = undefined;
		if (document.visibilityState === 'hidden') return;
		isBusy = true;
		// A failure is shown, if at all, by who asked; the next attempt may succeed.
		await run().catch(() => {});
		isBusy = false;
		if (!isStopped) timer ??= setTimeout(() => void next(), everyMs);
	}
	const change = () => document.visibilityState === 'visible' && timer === undefined && !isBusy && void next();
	document.addEventListener('visibilitychange', change);
	timer = setTimeout(() => void next(), everyMs);
	return () => {
		isStopped = true;
		clearTimeout(timer);
		document.removeEventListener('visibilitychange', change);
	};
}
