import { describe, expect, it } from 'vitest';
import type { Sandbox } from '$lib/state/sandboxes.svelte';
import { filterRows } from './filter';

const row = (id: string, more: Partial<Sandbox> = {}): Sandbox =>
	({ id, name: '', template: 'minimal', status: 'running', created_at: id, memory_mb: 512, metadata: {}, ...more }) as Sandbox;
const rows = [
	row('cl-1', { name: 'Web', metadata: { team: 'blue' } }),
	row('cl-2', { status: 'paused', memory_mb: 2048 }),
	row('cl-3', { status: 'pending' })
];
const ids = (text: string, state = '', sort = '-created') =>
	filterRows(rows, { text, state, sort }, (sandbox) => sandbox.status).map((sandbox) => sandbox.id);

describe('filterRows', () => {
	it('has the newest first', () => expect(ids('')).toEqual(['cl-3', 'cl-2', 'cl-1']));
	it('finds every word anywhere', () => {
		expect(ids('web team=blue')).toEqual(['cl-1']);
		expect(ids('web team=red')).toEqual([]);
	});
	it('counts a pending sandbox as starting', () => expect(ids('', 'starting')).toEqual(['cl-3']));
	it('sorts by a column', () => expect(ids('', '', '-memory')[0]).toBe('cl-2'));
	it('ignores an unknown column', () => expect(ids('', '', 'nonsense')).toHaveLength(3));
});
