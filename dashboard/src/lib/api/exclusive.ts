/** Runs a function in one tab of this origin at a time. */

const CLAIM_MS = 60;
const HOLD_LIMIT_MS = 5_000;

export async function exclusively<T>(name: string, run: () => Promise<T>): Promise<T> {
	// Web Locks exist in secure contexts only, and the dashboard also works over plain HTTP in a local network.
	if (navigator.locks) return navigator.locks.request(name, run) as Promise<T>;
	if (typeof BroadcastChannel === 'undefined') return run();
	return withChannel(name, run);
}

type Message = { kind: 'claim' | 'busy' | 'free'; from: string };

/** The same by messages: a tab claims, and holds if no other tab objects within `CLAIM_MS`. The lower id wins a tie. */
async function withChannel<T>(name: string, run: () => Promise<T>): Promise<T> {
	const channel = new BroadcastChannel(name);
	const own = Math.random().toString(36).slice(2);
	let refused = false;
	let freed = () => {};
	const post = (kind: Message['kind']) => channel.postMessage({ kind, from: own } satisfies Message);
	let holding = false;
	channel.onmessage = ({ data }: MessageEvent<Message>) => {
		if (data.kind === 'claim' && (holding || own < data.from)) post('busy');
		if (data.kind === 'busy') refused = true;
		if (data.kind === 'free') freed();
	};
	const wait = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));
	try {
		const limit = Date.now() + HOLD_LIMIT_MS;
		for (;;) {
			refused = false;
			post('claim');
			await wait(CLAIM_MS);
			// A tab that holds for longer has been suspended by the browser.
			if (!refused || Date.now() > limit) break;
			await Promise.race([wait(HOLD_LIMIT_MS), new Promise<void>((done) => (freed = done))]);
		}
		holding = true;
		return await run();
	} finally {
		post('free');
		channel.close();
	}
}
