/** Hosts as the pages show them. */
import { answer, api, type Schemas } from '$lib/api/client';
import { to, toTeam } from '$lib/paths';
import { reasonAgainst, type Role } from '$lib/state/roles';

export type Host = Schemas['HostView'];

/** Of the platform (for its admins) or of one team. */
export interface HostScope {
	/** Null: all hosts of the platform. */
	teamId: string | null;
	page: (id?: string) => string;
}

export const platformHosts: HostScope = { teamId: null, page: (id = '') => to(`/admin/hosts${id && `/${id}`}`) };
export const hostsOfTeam = (teamId: string): HostScope => ({ teamId, page: (id = '') => toTeam(`hosts${id && `/${id}`}`) });

export async function listHosts(scope: HostScope): Promise<Host[]> {
	const hosts = await answer(api.GET('/v1/hosts'));
	return scope.teamId === null ? hosts : hosts.filter((host) => host.team_id === scope.teamId);
}

/** What a host is doing: draining before being online. */
export const stateOf = (host: Host): string => host.drain?.state ?? host.status;

/** Why hosts of the scope cannot be managed; admins of the platform manage all. */
export const reasonAgainstManaging = (isAdmin: boolean, role: Role | undefined): string | null => (isAdmin ? null : reasonAgainst('manage hosts', role));

/** What the machine is, in words. */
export function machineOf(host: Host): string {
	const parts = [
		host.cpu_cores == null ? '' : `${host.cpu_cores} cores`,
		host.memory_mb == null ? '' : `${(host.memory_mb / 1024).toFixed(0)} GiB`,
		host.disk_gb == null ? '' : `${host.disk_gb} GB disk`,
		host.arch ?? ''
	];
	return parts.filter(Boolean).join(' · ');
}

/** Commands for the machine that becomes this host. The token is asked for, so that it is in no list of processes. */
export const joinCommands = (url: string): string =>
	[
		'apt-get install --no-install-recommends python3-venv',
		'python3 -m venv /opt/wrenn',
		"/opt/wrenn/bin/pip install 'wrenn[server]'",
		`/opt/wrenn/bin/wrenn agent join '${url}' --token -`
	].join('\n');
