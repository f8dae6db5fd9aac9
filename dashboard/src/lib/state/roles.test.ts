import { describe, expect, it } from 'vitest';
import { reasonAgainst, type TeamAction } from './roles';

const ACTIONS: TeamAction[] = ['rename', 'invite', 'remove', 'change roles', 'manage hosts', 'transfer', 'delete', 'leave'];
const allowed = (role: 'owner' | 'admin' | 'member') => ACTIONS.filter((action) => reasonAgainst(action, role) === null);

describe('what a role may do', () => {
	it.each([
		['owner', ['rename', 'invite', 'remove', 'change roles', 'manage hosts', 'transfer', 'delete']],
		['admin', ['rename', 'invite', 'remove', 'change roles', 'manage hosts', 'leave']],
		['member', ['leave']]
	] as const)('%s', (role, actions) => {
		expect(allowed(role)).toEqual(actions);
	});

	it('gives a reason to somebody without a team', () => {
		expect(reasonAgainst('leave', undefined)).toContain('no team');
	});
});
