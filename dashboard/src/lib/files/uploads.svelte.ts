/** Uploads into one sandbox: some at a time, with progress. They go on while other directories are shown. */
import { base } from '$app/paths';
import { ApiError, errorOf, unreachable } from '$lib/api/errors';
import { token } from '$lib/api/token';
import type { Upload } from './drop';
import { join } from './paths';

const AT_ONCE = 2;

/** `found`: there is a file at its path that nobody was asked about. */
export type UploadState = 'waiting' | 'sending' | 'found' | 'done' | 'failed' | 'cancelled';

export class UploadJob {
	state = $state<UploadState>('waiting');
	sent = $state(0);
	error = $state.raw<ApiError | null>(null);
	request: XMLHttpRequest | null = null;
	isCancelled = false;

	constructor(
		readonly file: File,
		readonly path: string,
		public mayReplace: boolean
	) {}
}

export class Uploads {
	jobs = $state.raw<UploadJob[]>([]);
	#url: string;
	#running = 0;

	/** Called after each file that has arrived. */
	ondone: () => void = () => {};

	constructor(
		sandboxId: string,
		readonly exists: (path: string) => Promise<boolean>
	) {
		this.#url = `${base}/v1/sandboxes/${sandboxId}/files/stream/write`;
	}

	get isActive(): boolean {
		return this.jobs.some((job) => job.state === 'waiting' || job.state === 'sending');
	}

	/**
	 * Upload files below a directory. Those in `confirmed` may replace what is there, as a whole, when all of the new content has
	 * arrived. Of the others it is looked once more whether there is anything.
	 */
	add(directory: string, uploads: Upload[], confirmed: ReadonlySet<Upload>): void {
		const before = this.isActive ? this.jobs : this.jobs.filter((job) => job.state === 'failed' || job.state === 'found');
		this.jobs = [...before, ...uploads.map((upload) => new UploadJob(upload.file, join(directory, upload.path), confirmed.has(upload)))];
		this.#next();
	}

	/** Replace the files that were found, or leave them as they are. */
	decide(mayReplace: boolean): void {
		for (const job of this.jobs.filter((candidate) => candidate.state === 'found')) {
			job.mayReplace = mayReplace;
			job.state = mayReplace ? 'waiting' : 'cancelled';
		}
		this.#next();
	}

	/** Try again what failed. */
	retry(): void {
		for (const job of this.jobs.filter((candidate) => candidate.state === 'failed')) {
			job.error = null;
			job.sent = 0;
			job.state = 'waiting';
		}
		this.#next();
	}

	cancel(): void {
		for (const job of this.jobs) {
			if (job.state === 'waiting') job.state = 'cancelled';
			else if (job.state === 'sending') {
				job.isCancelled = true;
				job.request?.abort();
			}
		}
	}

	clear(): void {
		this.jobs = [];
	}

	#next(): void {
		while (this.#running < AT_ONCE) {
			const job = this.jobs.find((candidate) => candidate.state === 'waiting');
			if (job === undefined) return;
			this.#running++;
			job.state = 'sending';
			void this.#send(job, true).finally(() => {
				this.#running--;
				this.#next();
			});
		}
	}

	async #send(job: UploadJob, mayRenew: boolean): Promise<void> {
		if (!job.mayReplace) {
			try {
				if (await this.exists(job.path)) {
					job.state = 'found';
					return;
				}
			} catch (error) {
				if (!(error instanceof ApiError)) throw error;
				return this.#fail(job, error);
			}
			if (job.isCancelled) {
				job.state = 'cancelled';
				return;
			}
		}
		const used = await token.current().catch(() => null);
		const form = new FormData();
		form.append('path', job.path);
		form.append('atomic', 'true');
		form.append('file', job.file, 'file');
		// `fetch` does not tell how much has been sent.
		const request = new XMLHttpRequest();
		job.request = request;
		request.open('POST', this.#url);
		if (used !== null) request.setRequestHeader('authorization', `Bearer ${used}`);
		request.upload.onprogress = (event) => (job.sent = Math.min(job.file.size, event.loaded));
		const ending = await new Promise<'load' | 'error' | 'abort'>((done) => {
			request.onload = () => done('load');
			request.onerror = () => done('error');
			request.onabort = () => done('abort');
			request.send(form);
		});
		if (ending === 'abort') job.state = 'cancelled';
		else if (ending === 'error') this.#fail(job, unreachable());
		else if (request.status === 401 && mayRenew && used !== null) {
			if ((await token.renewed(used).catch(() => null)) !== null) return this.#send(job, false);
			this.#fail(job, new ApiError(401, 'unauthorized', 'Your session has ended.'));
		} else if (request.status >= 300) this.#fail(job, await refusalOf(request));
		else {
			job.sent = job.file.size;
			job.state = 'done';
			this.ondone();
		}
	}

	#fail(job: UploadJob, error: ApiError): void {
		job.error = error;
		job.state = 'failed';
	}
}

async function refusalOf(request: XMLHttpRequest): Promise<ApiError> {
	const headers = { 'x-request-id': request.getResponseHeader('x-request-id') ?? '' };
	let body: unknown;
	try {
		body = JSON.parse(request.responseText);
	} catch {
		// A proxy between may answer in its own words.
	}
	return errorOf(new Response(null, { status: request.status, headers }), body);
}
