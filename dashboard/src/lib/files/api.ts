/** Calls about the files of one sandbox. */
import { answer, api, type Schemas } from '$lib/api/client';
import { ApiError } from '$lib/api/errors';
import { readUpTo } from './read';

export type FileEntry = Schemas['FileEntry'];

const READ_TIMEOUT_MS = 30_000;

export class Files {
	#params: { path: { sandbox_id: string } };

	constructor(readonly sandboxId: string) {
		this.#params = { path: { sandbox_id: sandboxId } };
	}

	/** The entries of a directory: directories first, then by name. */
	async list(path: string, signal?: AbortSignal): Promise<FileEntry[]> {
		const { entries } = await answer(api.POST('/v1/sandboxes/{sandbox_id}/files/list', { params: this.#params, body: { path }, signal }));
		const order = new Intl.Collator('en', { numeric: true }).compare;
		const rank = (entry: FileEntry) => (entry.type === 'directory' ? 0 : 1);
		return entries.sort((a, b) => rank(a) - rank(b) || order(a.name, b.name));
	}

	/** The names in a directory; none if there is no such directory. */
	names = async (path: string): Promise<string[]> => {
		try {
			return (await this.list(path)).map((entry) => entry.name);
		} catch (error) {
			if (error instanceof ApiError && (error.status === 404 || error.status === 400)) return [];
			throw error;
		}
	};

	/** What is known of a path; null if there is nothing. */
	async find(path: string): Promise<FileEntry | null> {
		try {
			return (await answer(api.POST('/v1/sandboxes/{sandbox_id}/files/stat', { params: this.#params, body: { path } }))).entry;
		} catch (error) {
			if (error instanceof ApiError && error.status === 404) return null;
			throw error;
		}
	}

	async makeDirectory(path: string): Promise<void> {
		await answer(api.POST('/v1/sandboxes/{sandbox_id}/files/mkdir', { params: this.#params, body: { path } }));
	}

	/** Give a file or directory another path, at which there must be nothing. */
	async move(source: string, destination: string): Promise<void> {
		await this.#mustBeFree(destination);
		await answer(api.POST('/v1/sandboxes/{sandbox_id}/files/move', { params: this.#params, body: { source, destination } }));
	}

	async remove(path: string): Promise<void> {
		await answer(api.POST('/v1/sandboxes/{sandbox_id}/files/remove', { params: this.#params, body: { path } }));
	}

	/** Make an empty file at a path at which there must be nothing. */
	async create(path: string): Promise<void> {
		await this.#mustBeFree(path);
		await this.write(path, new Uint8Array());
	}

	/** Replace the content of a file as a whole. Its owner and mode stay. */
	async write(path: string, content: Uint8Array<ArrayBuffer>): Promise<void> {
		await answer(
			api.POST('/v1/sandboxes/{sandbox_id}/files/write', {
				params: this.#params,
				body: { path, atomic: 'true', file: '' },
				bodySerializer: () => {
					const form = new FormData();
					form.append('path', path);
					form.append('atomic', 'true');
					form.append('file', new Blob([content]), 'file');
					return form;
				}
			})
		);
	}

	/** The content of a file; null if it is longer than `limit`, whatever its size says: files of the kernel have none. */
	async read(path: string, limit: number, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer> | null> {
		const stream = await answer(
			api.POST('/v1/sandboxes/{sandbox_id}/files/read', {
				params: this.#params,
				body: { path },
				parseAs: 'stream',
				signal: AbortSignal.any([AbortSignal.timeout(READ_TIMEOUT_MS), ...(signal ? [signal] : [])])
			})
		);
		// An empty answer has no stream.
		return stream === null ? new Uint8Array() : await readUpTo(stream as unknown as ReadableStream<Uint8Array<ArrayBuffer>>, limit);
	}

	/** Have the browser save a file, or a directory as a tar archive, without holding it in memory. */
	async download(entry: FileEntry): Promise<void> {
		const { url } = await answer(
			api.POST('/v1/sandboxes/{sandbox_id}/files/download-link', {
				params: this.#params,
				body: { path: entry.path, archive: entry.type === 'directory' }
			})
		);
		// The server names the file and forbids that it is shown as a page.
		const link = document.createElement('a');
		link.href = url;
		link.download = '';
		link.click();
	}

	async #mustBeFree(path: string): Promise<void> {
		if ((await this.find(path)) !== null) throw new ApiError(409, 'conflict', 'There is something of this name already.');
	}
}
