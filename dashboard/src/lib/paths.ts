/** Links to pages. All of them begin with the path under which the dashboard is served. */
import { base } from '$app/paths';
import { session } from '$lib/state/session.svelte';

/** `path` begins with a slash. */
export const to = (path: string): string => base + path;

/** A page of the team that is shown; `path` has no slash at its beginning. */
export const toTeam = (path: string, slug = session.team?.slug ?? ''): string => `${base}/t/${slug}/${path}`;

export const toSandbox = (id: string, page = ''): string => toTeam(`sandboxes/${id}${page === '' ? '' : `/${page}`}`);

/** Where to go after a sign-in: a path of ours, never another site's. */
export function safeNext(next: string | null): string {
	const home = `${base}/`;
	if (next === null || !next.startsWith('/') || next.startsWith('//') || next.includes('\\')) return home;
	return next.startsWith(home) ? next : home;
}
