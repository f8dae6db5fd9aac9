/** The team's sandboxes: listed once, then kept true by the event stream. Rows keep their identity by id. */
import { SvelteMap } from 'svelte/reactivity';
import { answer, api, type Schemas } from '$lib/api/client';
import { ApiError } from '$lib/api/errors';
import { untilVisible } from '$lib/visibility';
import { pause } from '$lib/wait';
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
const ENDED_KEPT = 100;
/** After a list that events asked for, the next one waits as long as that took, and not longer than this. */
const LIST_PAUSE_MS = 1_000;
/** What events have of a row, under the same names. */
const OF_EVENTS = ['status', 'name', 'expires_at', 'timeout_sec', 'on_expiry', 'disk_size_mb', 'public_ports', 'all_ports_public'] as const;

interface Call {
	id: string;
	meanwhile: 'nothing' | 'changed' | 'ended';
}

class Sandboxes {
	readonly rows = new SvelteMap<string, Sandbox>();
	/** The last that is known of sandboxes that have ended, of which a page may be open. */
	readonly ended = new SvelteMap<string, Sandbox>();
	readonly list = new Resource(() => this.#load(), { inputs: () => this.#teamId, isShared: true });
	#acting = new SvelteMap<string, Action>();
	/** Sandboxes of which more is to be read than the events had. */
	#changed = new Set<string>();
	#isListOld = false;
	#isReading = false;
	/** Sandboxes whose own pages are shown, with all that is known of them. */
	#whole = new Map<string, number>();
	#teamId = '';
	#isListed = false;
	/** Calls whose answers have a row, and what events say about it meanwhile: the answer may be older than they are. */
	#calls = new Set<Call>();
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
		this.rows.clear();
		this.ended.clear();
		this.#acting.clear();
		this.#changed.clear();
		this.#isListOld = false;
		this.list.value = undefined;
	}

	/** List all, and keep the list true. */
	async show(): Promise<void> {
		this.#isListed = true;
		await this.list.reload();
	}

	/** Keep one row true in all it has, not only in what a list shows, until the returned function is called. */
	keepWhole(id: string): () => void {
		this.#whole.set(id, (this.#whole.get(id) ?? 0) + 1);
		return () => {
			const others = (this.#whole.get(id) ?? 1) - 1;
			if (others === 0) this.#whole.delete(id);
			else this.#whole.set(id, others);
		};
	}

	/** The state that a row shows: what is under way before what was last known. */
	statusOf(sandbox: Sandbox): string {
		const action = this.#acting.get(sandbox.id);
		return action === undefined ? sandbox.status : DURING[action];
	}

	/** Read one sandbox; undefined if there is none of this id. */
	async read(id: string): Promise<Sandbox | undefined> {
		try {
			const read = () => answer(api.GET('/v1/sandboxes/{sandbox_id}', { params: { path: { sandbox_id: id } } }));
			const { sandbox, meanwhile } = await this.#called(id, read);
			if (meanwhile === 'changed') this.#readSoon(id);
			return meanwhile === 'ended' ? undefined : (this.rows.get(id) ?? sandbox);
		} catch (error) {
			if (!(error instanceof ApiError) || error.status !== 404) throw error;
			this.#remove(id);
			return undefined;
		}
	}

	/** Pause, resume or destroy a sandbox. The row shows it at once, and its former state again if it fails. */
	async act(id: string, action: Action, { keepalive = false } = {}): Promise<void> {
		this.#acting.set(id, action);
		const params = { params: { path: { sandbox_id: id } } };
		try {
			if (action === 'pause') await this.#called(id, () => answer(api.POST('/v1/sandboxes/{sandbox_id}/pause', params)));
			else if (action === 'resume') await this.#called(id, () => answer(api.POST('/v1/sandboxes/{sandbox_id}/resume', params)));
			else {
				await answer(api.DELETE('/v1/sandboxes/{sandbox_id}', { ...params, keepalive }));
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

	/** Make a call and show what its answer says, unless another team is shown meanwhile, or an event said something newer. */
	async #called(id: string, make: () => Promise<Sandbox>): Promise<{ sandbox: Sandbox; meanwhile: Call['meanwhile'] }> {
		const teamId = this.#teamId;
		const call: Call = { id, meanwhile: 'nothing' };
		this.#calls.add(call);
		try {
			const sandbox = await make();
			const isNewest = call.meanwhile === 'nothing' || (call.meanwhile === 'changed' && !this.rows.has(id));
			if (teamId === this.#teamId && isNewest) this.#put(sandbox);
			return { sandbox, meanwhile: call.meanwhile };
		} finally {
			this.#calls.delete(call);
		}
	}

	#put(sandbox: Sandbox): void {
		this.#newer?.add(sandbox.id);
		if (ENDED.has(sandbox.status)) this.#remove(sandbox.id, sandbox);
		else this.rows.set(sandbox.id, sandbox);
	}

	/** Take a sandbox out of the list. `last`: its row at its end, if that is known. */
	#remove(id: string, last?: Sandbox): void {
		this.#newer?.add(id);
		this.rows.delete(id);
		if (last === undefined) return;
		this.ended.set(id, last);
		for (const oldest of this.ended.keys()) {
			if (this.ended.size <= ENDED_KEPT) break;
			this.ended.delete(oldest);
		}
	}

	async #load(): Promise<true> {
		const teamId = this.#teamId;
		const newer = (this.#newer = new Set<string>());
		const rows = await answer(api.GET('/v1/sandboxes'));
		if (teamId !== this.#teamId || this.#newer !== newer) return true;
		this.#newer = null;
		const present = new Set(rows.map((row) => row.id));
		for (const id of [...this.rows.keys()]) if (!present.has(id) && !newer.has(id)) this.rows.delete(id);
		for (const row of rows) {
			if (!newer.has(row.id)) this.rows.set(row.id, row);
			// What the event that came meanwhile did not have may have changed before.
			else if (this.rows.has(row.id)) this.#readSoon(row.id);
		}
		return true;
	}

	#hear(event: LiveEvent): void {
		if (event.type === 'reset') {
			if (this.#isListed) this.#isListOld = true;
			else for (const id of this.rows.keys()) this.#changed.add(id);
			this.#startReading();
			return;
		}
		if (!event.type.startsWith('sandbox.') || event.type === 'sandbox.progress') return;
		const id = event.resource_id;
		const row = this.rows.get(id);
		const status = event.data['status'] as Sandbox['status'] | undefined;
		const isEnd = event.type === 'sandbox.destroyed' || (status !== undefined && ENDED.has(status));
		for (const call of this.#calls) if (call.id === id) call.meanwhile = isEnd ? 'ended' : 'changed';
		if (isEnd) {
			this.#remove(id, row && patched(row, event));
			return;
		}
		if (row === undefined) {
			if (this.#isListed) this.#readSoon(id);
			return;
		}
		this.#newer?.add(id);
		this.rows.set(id, patched(row, event));
		if (this.#whole.has(id) || event.data['metadata_changed'] === true) this.#readSoon(id);
	}

	#readSoon(id: string): void {
		this.#changed.add(id);
		this.#startReading();
	}

	#startReading(): void {
		if (!this.#isReading) void this.#readChanged();
	}

	/** Read what has changed, one answer after the other, while the page is visible. */
	async #readChanged(): Promise<void> {
		this.#isReading = true;
		try {
			while (this.#isListOld || this.#changed.size > 0) {
				await pause(GATHER_MS);
				await untilVisible();
				const ids = [...this.#changed];
				this.#changed.clear();
				if (!this.#isListOld && (ids.length <= SINGLE_READS || !this.#isListed)) {
					// A failed read leaves the row as the event has it; the next event or reset reads it again.
					await Promise.allSettled(ids.map((id) => this.read(id)));
					continue;
				}
				this.#isListOld = false;
				const startedAt = performance.now();
				await this.list.reload();
				await pause(Math.min(performance.now() - startedAt, LIST_PAUSE_MS));
			}
		} finally {
			this.#isReading = false;
		}
	}
}

/** A row after an event about it. */
function patched(row: Sandbox, { type, data }: LiveEvent): Sandbox {
	const facts = Object.fromEntries(OF_EVENTS.filter((name) => data[name] !== undefined).map((name) => [name, data[name]]));
	const next = { ...row, ...facts } as Sandbox;
	if (type === 'sandbox.updated') return next;
	const { reason, ...metadata } = row.metadata ?? {};
	return { ...next, metadata: typeof data['reason'] === 'string' ? { ...metadata, reason: data['reason'] } : metadata };
}

export const sandboxes = new Sandboxes();
