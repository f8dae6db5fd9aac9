/** Wait; not longer than until `signal`. */
export const pause = (ms: number, signal?: AbortSignal): Promise<void> =>
	new Promise((done) => {
		const end = () => {
			clearTimeout(timer);
			signal?.removeEventListener('abort', end);
			done();
		};
		const timer = setTimeout(end, signal?.aborted ? 0 : ms);
		signal?.addEventListener('abort', end);
	});
