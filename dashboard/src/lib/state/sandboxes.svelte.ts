/** The team's sandboxes: listed once, then kept true by the event stream. Rows keep their identity by id. */
import { SvelteMap } from 'svelte/reactivity';
import { answer, api, type Schemas } from '$lib/api/client';
import { ApiError } from '$lib/api/errors';
import { live, type LiveEvent } from './live.svelte';
import { Resource } from './resource.svelte';

export type Sandbox = Schemas['SandboxView'];
export type Action = 'pause' | 'resume' | 'destroy';

/** What a row shows while its action is under way. */
const DURING: Record<Action, string> = { pause: 'pausing', resume: 'resuming', destroy: 'destroying' };
const ENDED = new Set(['stopped', 'error']);
/** More changed rows at once than this are read by one list. */
const SINGLE_READS = 8;
const GATHER_MS = 50;

class Sandboxes {
	readonly rows = new SvelteMap<string, Sandbox>();
	readonly list = new Resource(() => this.#load());
	#acting = new SvelteMap<string, Action>();
	#changed = new Set<string>();
	#timer: ReturnType<typeof setTimeout> | null = null;
	#teamId = '';
	#isListed = false;
	#round = 0;
	/** Rows that changed while a list is being read: its answer may be older than they are. */
	#newer: Set<string> | null = null;

	constructor() {
		live.subscribe((event) => this.#hear(event));
	}

	/** Only sandboxes of this team are shown from now on. */
	enter(teamId: string): void {
		if (teamId === this.#teamId) return;
		this.#teamId = teamId;
		this.#isListed = false;
		this.#round++;
		this.rows.clear();
		this.#acting.clear();
		this.#changed.clear();
		this.list.value = undefined;
	}

	/** List all, and keep the list true. */
	async show(): Promise<void> {
		this.#isListed = true;
		await this.list.reload();
	}

	/** The state that a row shows: what is under way before what was last known. */
	statusOf(sandbox: Sandbox): string {
		const action = this.#acting.get(sandbox.id);
		return action === undefined ? sandbox.status : DURING[action];
	}

	/** Read one sandbox; undefined if there is none of this id. */
	async read(id: string): Promise<Sandbox | undefined> {
		const teamId = this.#teamId;
		try {
			const sandbox = await answer(api.GET('/v1/sandboxes/{sandbox_id}', { params: { path: { sandbox_id: id } } }));
			this.#put(sandbox, teamId);
			return sandbox;
		} catch (error) {
			if (!(error instanceof ApiError) || error.status !== 404) throw error;
			this.#remove(id);
			return undefined;
		}
	}

	/** Pause, resume or destroy a sandbox. The row shows it at once, and its former state again if it fails. */
	async act(id: string, action: Action): Promise<void> {
		const teamId = this.#teamId;
		this.#acting.set(id, action);
		const params = { params: { path: { sandbox_id: id } } };
		try {
			if (action === 'pause') this.#put(await answer(api.POST('/v1/sandboxes/{sandbox_id}/pause', params)), teamId);
			else if (action === 'resume')
				this.#put(await answer(api.POST('/v1/sandboxes/{sandbox_id}/resume', params)), teamId);
			else {
				// The page may be closing.
				await answer(api.DELETE('/v1/sandboxes/{sandbox_id}', { ...params, keepalive: true }));
				this.#remove(id);
			}
		} catch (error) {
			// Somebody else removed it first: that is what was wanted.
			if (action === 'destroy' && error instanceof ApiError && error.status === 404) this.#remove(id);
			else throw error;
		} finally {
			if (this.#acting.get(id) === action) this.#acting.delete(id);
		}
	}

	/** Mark a sandbox as being destroyed before the call is sent, or take that back. */
	markDestroyed(id: string, isMarked: boolean): void {
		if (isMarked) this.#acting.set(id, 'destroy');
		else this.#acting.delete(id);
	}

	/** Show what an answer says, unless another team is shown meanwhile. */
	#put(sandbox: Sandbox, teamId: string): void {
		if (teamId !== this.#teamId) return;
		this.#newer?.add(sandbox.id);
		if (ENDED.has(sandbox.status)) this.rows.delete(sandbox.id);
		else this.rows.set(sandbox.id, sandbox);
	}

	#remove(id: string): void {
		this.#newer?.add(id);
		this.rows.delete(id);
	}

	async #load(): Promise<true> {
		const round = ++this.#round;
		const newer = (this.#newer = new Set<string>());
		const rows = await answer(api.GET('/v1/sandboxes'));
		if (round !== this.#round) return true;
		this.#newer = null;
		const present = new Set(rows.map((row) => row.id));
		for (const id of [...this.rows.keys()]) if (!present.has(id) && !newer.has(id)) this.rows.delete(id);
		for (const row of rows) if (!newer.has(row.id)) this.rows.set(row.id, row);
		return true;
	}

	#hear(event: LiveEvent): void {
		if (event.type === 'reset') {
			if (this.#isListed) void this.list.reload();
			else for (const id of this.rows.keys()) this.#readSoon(id);
			return;
		}
		if (!event.type.startsWith('sandbox.') || event.type === 'sandbox.progress') return;
		const id = event.resource_id;
		const row = this.rows.get(id);
		const status = event.data['status'] as Sandbox['status'] | undefined;
		if (event.type === 'sandbox.destroyed' || (status !== undefined && ENDED.has(status))) {
			this.#remove(id);
			return;
		}
		// The state at once, from the event; the rest of the row when it has been read.
		if (row !== undefined && status !== undefined) this.rows.set(id, { ...row, status });
		if (row !== undefined || this.#isListed) this.#readSoon(id);
	}

	#readSoon(id: string): void {
		this.#newer?.add(id);
		this.#changed.add(id);
		this.#timer ??= setTimeout(() => void this.#readChanged(), GATHER_MS);
	}

	async #readChanged(): Promise<void> {
		this.#timer = null;
		const ids = [...this.#changed];
		this.#changed.clear();
		if (ids.length > SINGLE_READS && this.#isListed) return this.list.reload();
		// A failed read leaves the row as the event has it; the next event or reset reads it again.
		await Promise.allSettled(ids.map((id) => this.read(id)));
	}
}

export const sandboxes = new Sandboxes();
