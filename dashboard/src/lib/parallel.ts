/** Requests that a browser sends to one host at a time over HTTP/1.1. */
const AT_ONCE = 6;

/** Do `work` for each of many, a few at a time and in their order. Returns the errors. */
export async function forEach<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<unknown[]> {
	const errors: unknown[] = [];
	const waiting = items.values();
	const worker = async () => {
		for (const item of waiting) await work(item).catch((error: unknown) => errors.push(error));
	};
	await Promise.all(Array.from({ length: AT_ONCE }, worker));
	return errors;
}
