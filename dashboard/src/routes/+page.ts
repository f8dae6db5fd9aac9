import { error, redirect } from '@sveltejs/kit';
import { to, toTeam } from '$lib/paths';
import { ApiError } from '$lib/api/errors';
import { session } from '$lib/state/session.svelte';

export async function load() {
	let isSignedIn: boolean;
	try {
		isSignedIn = await session.restore();
	} catch (failure) {
		error(failure instanceof ApiError && failure.status > 0 ? failure.status : 503, (failure as Error).message);
	}
	redirect(307, isSignedIn ? (session.team ? toTeam('sandboxes') : to('/account')) : to('/login'));
}
