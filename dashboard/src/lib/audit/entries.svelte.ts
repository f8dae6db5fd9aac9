/** Entries of an audit log: loaded in pages, newest first, and how many have come since. */
import { answer, api, type Schemas } from '$lib/api/client';
import { ApiError } from '$lib/api/errors';
import type { LiveEvent } from '$lib/state/live.svelte';
import type { Entry } from './csv';

export interface Filter {
	type: string;
	action: string;
	/** Words that must be in an entry. */
	text: string;
	/** Only entries of this time and newer ones, in milliseconds; null: all. */
	since: number | null;
}

const PAGE = 100;

export class Entries {
	/** Undefined: not loaded yet. */
	items = $state.raw<Entry[] | undefined>(undefined);
	error = $state.raw<ApiError | null>(null);
	isLoading = $state(false);
	hasMore = $state(false);
	/** Entries that were written since the first page was read. */
	newCount = $state(0);
	#filter: Filter = { type: '', action: '', text: '', since: null };
	#next: Pick<Schemas['AuditPage'], 'next_before' | 'next_before_id'> | null = null;
	#round = 0;

	constructor(readonly isPlatform: boolean) {}

	/** Show the newest entries that match. */
	async show(filter: Filter): Promise<void> {
		this.#filter = filter;
		this.#next = null;
		await this.#load([]);
	}

	reload = (): Promise<void> => this.show(this.#filter);

	more = (): Promise<void> => this.#load(this.items ?? []);

	async #load(before: Entry[]): Promise<void> {
		const round = ++this.#round;
		const cursor = this.#next;
		this.isLoading = true;
		if (cursor === null) this.newCount = 0;
		const { type, action, text, since } = this.#filter;
		const params = {
			query: {
				limit: PAGE,
				...(type && { resource_type: [type] }),
				...(action && { action: [action] }),
				...(text && { q: text }),
				...(since !== null && { since: new Date(since).toISOString() }),
				...(cursor && { before: cursor.next_before, before_id: cursor.next_before_id })
			}
		};
		try {
			const page = await answer(this.isPlatform ? api.GET('/v1/admin/audit-logs', { params }) : api.GET('/v1/audit-logs', { params }));
			if (round !== this.#round) return;
			this.items = [...before, ...page.items];
			// A search ends where nothing is left to look at, however little it found.
			this.hasMore = text === '' ? page.items.length === PAGE : page.next_before != null;
			this.#next = page;
			this.error = null;
		} catch (error) {
			if (round !== this.#round) return;
			if (!(error instanceof ApiError)) throw error;
			this.error = error;
		} finally {
			if (round === this.#round) this.isLoading = false;
		}
	}

	/** Count an entry that the event stream tells of, if it matches. */
	hear(event: LiveEvent): void {
		if (event.type === 'reset') {
			// Nobody knows how many were missed; a page that is at its beginning is read again.
			if (this.items !== undefined && this.items.length <= PAGE) void this.reload();
			return;
		}
		// The stream tells of the team's entries; the platform's log has others.
		if (event.type !== 'audit.recorded' || this.isPlatform) return;
		const { type, action, text } = this.#filter;
		// Whether it has the words is known to the server only.
		if (text !== '') return;
		if ((type === '' || event.data['resource_type'] === type) && (action === '' || event.data['action'] === action)) this.newCount++;
	}
}
