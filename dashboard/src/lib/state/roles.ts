/** What a role may do in its team, and why not. The API decides; the pages say it before somebody tries. */
import type { Schemas } from '$lib/api/client';

export type Role = Schemas['Role'];

const ADMINS = 'Only an admin or the owner of the team may do this.';
const OWNER = 'Only the owner of the team may do this.';

export type TeamAction = 'rename' | 'invite' | 'remove' | 'change roles' | 'manage hosts' | 'transfer' | 'delete' | 'leave';

/** Null: the role may do it. */
export function reasonAgainst(action: TeamAction, role: Role | undefined): string | null {
	if (role === undefined) return 'You are in no team.';
	if (action === 'leave') return role === 'owner' ? 'The owner cannot leave: transfer the team to another member first.' : null;
	if (action === 'transfer' || action === 'delete') return role === 'owner' ? null : OWNER;
	return role === 'member' ? ADMINS : null;
}

/** What each role may do, in words. */
export const ROLES: Record<Role, string> = {
	owner: 'Everything an admin may do, and transfer or delete the team.',
	admin: 'Everything a member may do, and manage members, roles, hosts and the settings of the team. Reads the whole audit log.',
	member: 'Sandboxes, templates, builds and API keys. Reads team, hosts and the audit log of what members do.'
};
