/** Who is signed in, in which team, and what that allows. */
import { answer, api, type Schemas } from '$lib/api/client';
import { departure } from '$lib/api/departure';
import { token } from '$lib/api/token';
import { announceSignIn } from './signed-in';

const ATTEMPTS = 3;

export type Team = Schemas['TeamView'];

class Session {
	/** Null before `restore`, and when nobody is signed in. */
	user = $state<{ id: string; email: string; name: string; isAdmin: boolean } | null>(null);
	teams = $state<Team[]>([]);
	teamId = $state('');
	/** The session ended while a page was open: the page stays, and a dialog asks to sign in again. */
	expired = $state(false);

	/** What has to be done before another team is shown and before the user signs out. The pages set it: those for signing in need none of it. */
	beforeLeaving: () => Promise<void> = async () => {};

	constructor() {
		token.onchange = (signedIn) => {
			if (signedIn === null) {
				this.expired = this.user !== null;
				return;
			}
			this.user = {
				id: signedIn.user_id,
				email: signedIn.email,
				name: signedIn.name,
				isAdmin: signedIn.is_admin
			};
			this.teamId = signedIn.team_id;
			this.expired = false;
		};
	}

	/** The team whose pages are shown. */
	get team(): Team | null {
		return this.teams.find((team) => team.id === this.teamId) ?? null;
	}

	/** Owner or admin of the team. */
	get managesTeam(): boolean {
		return this.team !== null && this.team.role !== 'member';
	}

	/** Sign in with the refresh cookie, unless that is done. False: nobody is signed in. */
	async restore(): Promise<boolean> {
		if (this.user !== null) return true;
		if ((await token.renew()) === null) return false;
		await this.loadTeams();
		announceSignIn();
		return true;
	}

	/** Go on after the session has ended, if another tab of the browser has signed in. */
	async goOn(): Promise<void> {
		if (!this.expired) return;
		// Unknown whether it has: the dialog stays, and the next attempt may say.
		const signedIn = await token.renew().catch(() => null);
		if (signedIn !== null) await this.loadTeams().catch(() => {});
	}

	/** Sign in, on a page of its own or over a page whose session has ended: that page then goes on with its user and team. */
	async signIn(email: string, password: string): Promise<void> {
		const former = this.user === null ? null : { userId: this.user.id, teamId: this.teamId };
		const signedIn = await answer(api.POST('/v1/auth/login', { body: { email, password } }));
		if (former === null) token.accept(signedIn);
		else if (former.userId !== signedIn.user_id) return departure.begin('user');
		else {
			// A sign-in is for the user's default team: its token is never used on a page of another one.
			token.teamId = former.teamId;
			await token.renew();
		}
		await this.#enter();
	}

	async signUp(name: string, email: string, password: string): Promise<void> {
		token.accept(await answer(api.POST('/v1/auth/signup', { body: { name, email, password } })));
		await this.#enter();
	}

	async signOut(): Promise<void> {
		await this.beforeLeaving();
		await answer(api.POST('/v1/auth/logout', { headers: { 'content-type': 'application/json' }, body: {} as never }));
		this.forgetAccount();
	}

	/** Nobody is signed in any more. */
	forgetAccount(): void {
		this.user = null;
		this.teams = [];
		token.forget();
	}

	/** Change the name of the user. */
	async rename(name: string): Promise<void> {
		token.accept(await answer(api.PATCH('/v1/me', { body: { name } })));
	}

	async loadTeams(): Promise<void> {
		this.teams = await answer(api.GET('/v1/teams'));
	}

	async #enter(): Promise<void> {
		announceSignIn();
		await this.loadTeams();
	}

	/** Load the teams again. A user who is no longer in the team that is shown gets another page, which the renewal leads to. */
	followTeams = async (): Promise<void> => {
		if (this.user === null || this.expired) return;
		try {
			await this.loadTeams();
			if (this.team === null) await token.renew();
		} catch {
			// No answer, or no right to any: the calls of the page say so.
		}
	};

	/** Use what an answer says about one of the teams. */
	put(team: Team): void {
		this.teams = this.teams.map((known) => (known.id === team.id ? team : known));
	}

	/** The team that is shown is no longer the user's: show another one of the user's. */
	async forgetTeam(): Promise<void> {
		token.teamId = null;
		try {
			await token.renew();
			await this.loadTeams();
		} catch {
			// It was the last one. Whoever is in no team cannot be signed in, and the next page says so.
			this.forgetAccount();
		}
	}

	/** Sign in with the secret of a link that `wrenn up` or `wrenn open` has printed. */
	async signInByLink(secret: string): Promise<void> {
		token.accept(await answer(api.POST('/v1/auth/sign-in-link', { body: { token: secret } })));
		await this.#enter();
	}

	/** Show another team in this tab; other tabs stay where they are. */
	async show(teamId: string): Promise<void> {
		if (teamId === this.teamId) return;
		// What waits to be destroyed belongs to the team that is shown now.
		await this.beforeLeaving();
		const former = token.teamId;
		try {
			// A renewal that was under way is for the former team.
			for (let attempt = 0; attempt < ATTEMPTS && token.shownTeamId !== teamId; attempt++) {
				token.teamId = teamId;
				if ((await token.renew()) === null) return;
			}
		} catch (error) {
			token.teamId = former;
			throw error;
		}
	}
}

export const session = new Session();
