/** Which rows of the list are shown, and in which order. */
import type { Sandbox } from '$lib/state/sandboxes.svelte';

export interface Filter {
	text: string;
	/** Empty: every state. */
	state: string;
	/** A column; with `-` before it the largest first. */
	sort: string;
}

export const STATES = ['running', 'paused', 'starting', 'missing'] as const;

const KEYS: Record<string, (row: Sandbox) => string | number> = {
	created: (row) => row.created_at,
	name: (row) => (row.name ?? '').toLowerCase(),
	status: (row) => row.status,
	template: (row) => row.template,
	memory: (row) => row.memory_mb,
	expires: (row) => row.expires_at ?? '9999'
};

export function filterRows(rows: Sandbox[], filter: Filter, statusOf: (row: Sandbox) => string): Sandbox[] {
	const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
	const matching = rows.filter((row) => {
		if (filter.state === 'starting' && row.status === 'pending') return words.every((word) => textOf(row).includes(word));
		if (filter.state !== '' && statusOf(row) !== filter.state && row.status !== filter.state) return false;
		return words.every((word) => textOf(row).includes(word));
	});
	const descending = filter.sort.startsWith('-');
	const key = KEYS[filter.sort.replace(/^-/, '')] ?? KEYS['created']!;
	const sign = descending ? -1 : 1;
	return matching.sort((one, other) => {
		const a = key(one);
		const b = key(other);
		return a < b ? -sign : a > b ? sign : one.id < other.id ? -1 : 1;
	});
}

/** All that a search looks at. */
function textOf(row: Sandbox): string {
	const labels = Object.entries(row.metadata ?? {}).map(([name, value]) => `${name}=${value}`);
	return [row.id, row.name ?? '', row.template, row.created_by?.name ?? '', ...labels].join('\n').toLowerCase();
}
