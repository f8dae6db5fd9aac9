import { error, redirect } from '@sveltejs/kit';
import { ApiError } from '$lib/api/errors';
import { to } from '$lib/paths';
import { session } from '$lib/state/session.svelte';

/** Pages for somebody who is signed in; others sign in first, and come back. */
export async function load({ url }) {
	let isSignedIn: boolean;
	try {
		isSignedIn = await session.restore();
	} catch (failure) {
		error(failure instanceof ApiError && failure.status > 0 ? failure.status : 503, (failure as Error).message);
	}
	if (!isSignedIn) redirect(307, `${to('/login')}?next=${encodeURIComponent(url.pathname + url.search)}`);
}
