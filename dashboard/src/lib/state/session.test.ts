import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

vi.mock('$app/paths', () => ({ base: 'http://localhost' }));
const { token } = await import('$lib/api/token');
const { session } = await import('./session.svelte');
const { whenSignedInElsewhere } = await import('./signed-in');

describe('session', () => {
	let answers: Record<string, unknown> = {};
	const signedIn = { token: 't', expires_in: 900, team_id: 'team-1', user_id: 'usr-1', email: 'e', name: 'n', is_admin: false };
	const team = (role: string) => ({ id: 'team-1', slug: 'one', name: 'One', role });

	beforeEach(() => {
		vi.stubGlobal('document', Object.assign(new EventTarget(), { visibilityState: 'visible' }));
		vi.stubGlobal('window', new EventTarget());
		vi.stubGlobal('location', { assign: vi.fn() });
		vi.stubGlobal('navigator', {});
		vi.stubGlobal('fetch', (input: Request | string) => {
			const body = answers[new URL(typeof input === 'string' ? input : input.url).pathname];
			return Promise.resolve(body === undefined ? Response.json({}, { status: 401 }) : Response.json(body));
		});
		answers = { '/v1/teams': [team('member')] };
		token.accept(signedIn as never);
	});
	afterEach(() => vi.unstubAllGlobals());

	it('goes on when another tab has signed in', async () => {
		token.forget();
		expect(session.expired).toBe(true);
		const end = whenSignedInElsewhere(() => void session.goOn());
		window.dispatchEvent(new Event('focus'));
		await vi.waitFor(() => expect(session.expired).toBe(true));
		answers['/v1/auth/refresh'] = { ...signedIn, token: 'u' };
		// Another tab: it restores its session when its page loads.
		vi.resetModules();
		const other = await import('./session.svelte');
		expect(await other.session.restore()).toBe(true);
		await vi.waitFor(() => expect([session.expired, session.team?.role]).toEqual([false, 'member']));
		end();
	});

	it('follows what the user may do', async () => {
		await session.loadTeams();
		answers['/v1/teams'] = [team('admin')];
		await session.followTeams();
		expect([session.team?.role, session.managesTeam]).toEqual(['admin', true]);
		// Removed: the renewal for the team is refused, which leads to another page.
		answers['/v1/teams'] = [];
		const renew = vi.spyOn(token, 'renew').mockResolvedValue(null);
		await session.followTeams();
		expect(renew).toHaveBeenCalled();
		renew.mockRestore();
	});
});
