import { redirect } from '@sveltejs/kit';
import { toTeam } from '$lib/paths';

export const load = ({ params }) => redirect(307, toTeam('sandboxes', params.team));
