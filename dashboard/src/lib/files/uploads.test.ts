import { afterEach, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: '' }));
const { Uploads } = await import('./uploads.svelte');

/** What is sent by the page, answered by the test. */
class Answered {
	static status = 200;
	static sent = 0;
	upload = {};
	status = 0;
	responseText = '{"error": {"code": "unavailable", "message": "Later."}}';
	onload = () => {};
	open() {}
	setRequestHeader() {}
	getResponseHeader = (name: string) => (name === 'x-request-id' ? 'req-7' : null);
	send() {
		Answered.sent++;
		this.status = Answered.status;
		queueMicrotask(() => this.onload());
	}
}
afterEach(() => vi.unstubAllGlobals());

it('tries again what failed, and says under which id it did', async () => {
	vi.stubGlobal('XMLHttpRequest', Answered);
	const uploads = new Uploads('cl-1', () => Promise.resolve(false));
	const files = ['a', 'b', 'c'].map((path) => ({ path, file: new File(['x'], path) }));
	Answered.status = 503;
	uploads.add('/root', files, new Set());
	await vi.waitFor(() => expect(uploads.jobs.map((job) => [job.state, job.error?.requestId])).toEqual(Array(3).fill(['failed', 'req-7'])));
	Answered.status = 200;
	uploads.retry();
	await vi.waitFor(() => expect(uploads.jobs.map((job) => [job.state, job.error, job.sent])).toEqual(Array(3).fill(['done', null, 1])));
	expect(Answered.sent).toBe(6);
	uploads.retry();
	expect(uploads.isActive).toBe(false);
});
