import { describe, expect, it } from 'vitest';
import { reasonAgainst, type SandboxAction } from './actions';

const ACTIONS: SandboxAction[] = ['pause', 'resume', 'destroy', 'fork', 'snapshot', 'terminal', 'files'];
const allowed = (status: string) => ACTIONS.filter((action) => reasonAgainst(action, status) === null);

describe('reasonAgainst', () => {
	it.each([
		['running', ['pause', 'destroy', 'fork', 'snapshot', 'terminal', 'files']],
		['paused', ['resume', 'destroy', 'fork', 'snapshot']],
		['missing', ['destroy']],
		['pending', ['destroy']],
		['starting', ['destroy']],
		['pausing', ['destroy']],
		['destroying', []],
		['a state of a later release', ['destroy']]
	])('%s', (status, actions) => {
		expect(allowed(status)).toEqual(actions);
	});
});
