/** Tabs of one browser tell each other that somebody has signed in: a session that has ended in one goes on in all. */
import { base } from '$app/paths';

const CHANNEL = `wrenn-signed-in ${base}`;
const isSupported = typeof BroadcastChannel !== 'undefined';

/** Tell the other tabs that this browser has a session. */
export function announceSignIn(): void {
	if (!isSupported) return;
	const channel = new BroadcastChannel(CHANNEL);
	channel.postMessage(null);
	channel.close();
}

/** Call `run` when another tab may have signed in, until the returned function is called: it said so, or this one is looked at again. */
export function whenSignedInElsewhere(run: () => void): () => void {
	const end = new AbortController();
	const channel = isSupported ? new BroadcastChannel(CHANNEL) : null;
	if (channel !== null) channel.onmessage = run;
	window.addEventListener('focus', run, { signal: end.signal });
	document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && run(), { signal: end.signal });
	return () => {
		end.abort();
		channel?.close();
	};
}
