import { error } from '@sveltejs/kit';
import { session } from '$lib/state/session.svelte';

/** Pages for admins of the platform; for others there are none. */
export async function load({ parent }) {
	await parent();
	if (!session.user?.isAdmin) error(404, 'There is no such page.');
}
