import { error } from '@sveltejs/kit';
import { ApiError } from '$lib/api/errors';
import { sandboxes } from '$lib/state/sandboxes.svelte';
import { session } from '$lib/state/session.svelte';

/** Pages of a team: this tab's token is made for it first. */
export async function load({ params, parent }) {
	await parent();
	if (!session.teams.some((team) => team.slug === params.team)) await session.loadTeams().catch(() => {});
	const team = session.teams.find((candidate) => candidate.slug === params.team);
	if (team === undefined) error(404, 'You are in no such team.');
	try {
		await session.show(team.id);
		sandboxes.enter(team.id);
	} catch (failure) {
		error(failure instanceof ApiError && failure.status > 0 ? failure.status : 503, (failure as Error).message);
	}
}
