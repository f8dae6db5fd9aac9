/** All pages that somebody may open, for the sidebar and the command palette. */
import { to, toTeam } from './paths';
import { session } from './state/session.svelte';

export interface PageLink {
	href: string;
	text: string;
	/** The key that opens it after `g`. */
	key?: string;
}

export interface PageGroup {
	title: string;
	links: PageLink[];
}

const TEAM_PAGES: [path: string, text: string, key: string][] = [
	['sandboxes', 'Sandboxes', 's'], ['templates', 'Templates', 't'], ['builds', 'Builds', 'b'], ['stats', 'Statistics', 'i'],
	['keys', 'API keys', 'k'], ['team', 'Team', 'm'], ['audit', 'Audit log', 'a']
]; // prettier-ignore
const ADMIN_PAGES: [path: string, text: string][] = [
	['load', 'Load'], ['hosts', 'Hosts'], ['templates', 'Templates'], ['builds', 'Builds'], ['teams', 'Teams'], ['users', 'Users'],
	['audit', 'Audit log']
]; // prettier-ignore

export function pageGroups(): PageGroup[] {
	const groups: PageGroup[] = [];
	if (session.team !== null) {
		const links: PageLink[] = TEAM_PAGES.map(([path, text, key]) => ({ href: toTeam(path), text, key }));
		if (session.team.is_byoc) links.push({ href: toTeam('hosts'), text: 'Hosts', key: 'h' });
		groups.push({ title: 'Team', links });
	}
	if (session.user?.isAdmin)
		groups.push({ title: 'Platform', links: ADMIN_PAGES.map(([path, text]) => ({ href: to(`/admin/${path}`), text })) });
	return groups;
}
