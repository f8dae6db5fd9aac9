/** What can be done with a sandbox in its state, and why not. One table for list, detail page and command palette. */

export type SandboxAction = 'pause' | 'resume' | 'destroy' | 'fork' | 'snapshot' | 'terminal' | 'files';

const LIVE_ONLY = 'It is not running. Resume it first.';
const BUSY = 'Something else is under way with it.';

const REASONS: Record<string, Partial<Record<SandboxAction, string>>> = {
	running: { resume: 'It is running already.' },
	paused: { pause: 'It is paused already.', terminal: LIVE_ONLY, files: LIVE_ONLY },
	missing: {
		pause: 'Its host does not respond.', resume: 'Its host does not respond.', fork: 'Its host does not respond.',
		snapshot: 'Its host does not respond.', terminal: 'Its host does not respond.', files: 'Its host does not respond.'
	}
}; // prettier-ignore

/** Null: it can be done. A sandbox can always be destroyed, so that nobody is locked out by an action that hangs. */
export function reasonAgainst(action: SandboxAction, status: string): string | null {
	if (action === 'destroy') return status === 'destroying' ? 'It is being destroyed.' : null;
	const reasons = REASONS[status];
	return reasons === undefined ? BUSY : (reasons[action] ?? null);
}
