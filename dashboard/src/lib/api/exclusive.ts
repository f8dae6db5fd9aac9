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

/** The same by messages: a tab claims, and holds if no other tab objects within `CLAIM_MS`. Of two that claim, the lower id wins. */
async function withChannel<T>(name: string, run: () => Promise<T>): Promise<T> {
	const channel = new BroadcastChannel(name);
	const own = Math.random().toString(36).slice(2);
	let refused = false;
	let isFree = false;
	let freed = () => {};
	let heardAt = Date.now();
	const post = (kind: Message['kind']) => channel.postMessage({ kind, from: own } satisfies Message);
	let holding = false;
	channel.onmessage = ({ data }: MessageEvent<Message>) => {
		if (data.kind === 'claim') {
			if (holding || own < data.from) post('busy');
			else refused = true;
			return;
		}
		heardAt = Date.now();
		if (data.kind === 'busy') refused = true;
		else {
			isFree = true;
			freed();
		}
	};
	const wait = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));
	try {
		for (;;) {
			refused = isFree = false;
			post('claim');
			await wait(CLAIM_MS);
			// A tab that holds for longer, and says nothing, has been suspended by the browser.
			if (!refused || Date.now() - heardAt > HOLD_LIMIT_MS) break;
			if (!isFree) await Promise.race([wait(HOLD_LIMIT_MS), new Promise<void>((done) => (freed = done))]);
		}
		holding = true;
		post('busy');
		return await run();
	} finally {
		post('free');
		channel.close();
	}
}
