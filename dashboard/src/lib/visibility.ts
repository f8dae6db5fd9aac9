/** Whether the page can be seen. */
export const isVisible = (): boolean => document.visibilityState === 'visible';

/** Wait until the page is visible or the signal is aborted. */
export async function untilVisible(signal?: AbortSignal): Promise<void> {
	if (isVisible() || signal?.aborted) return;
	await new Promise<void>((done) => {
		const change = () => {
			if (!isVisible() && !signal?.aborted) return;
			document.removeEventListener('visibilitychange', change);
			signal?.removeEventListener('abort', change);
			done();
		};
		document.addEventListener('visibilitychange', change);
		signal?.addEventListener('abort', change);
	});
}

/** Call `run` once the page is hidden, until the returned function is called. */
export function whenHidden(run: () => void): () => void {
	const change = () => isVisible() || run();
	document.addEventListener('visibilitychange', change);
	return () => document.removeEventListener('visibilitychange', change);
}

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
