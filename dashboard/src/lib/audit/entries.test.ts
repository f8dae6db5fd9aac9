import { expect, it, vi } from 'vitest';
import type { LiveEvent } from '$lib/state/live.svelte';

vi.mock('$app/paths', () => ({ base: '' }));
const { Entries } = await import('./entries.svelte');

it('counts new entries of the team in the log of the team only', () => {
	const event = { type: 'audit.recorded', data: { resource_type: 'sandbox', action: 'create' } } as unknown as LiveEvent;
	const counts = [new Entries(false), new Entries(true)].map((entries) => {
		entries.hear(event);
		return entries.newCount;
	});
	expect(counts).toEqual([1, 0]);
});
