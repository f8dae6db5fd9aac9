/**
 * The access token: in memory only, so no script of another page and no storage ever has it. The refresh token is in a
 * cookie that scripts cannot read; each refresh replaces it, and a second use of the old one ends the session, so only one
 * tab may refresh at a time.
 */
import { base } from '$app/paths';
import { departure } from './departure';
import { exclusively } from './exclusive';
import { ApiError, errorOf, unreachable } from './errors';
import type { components } from './schema';

export type SignedIn = components['schemas']['AuthResponse'];

const RENEW_BEFORE_MS = 60_000;

class Token {
	#value: string | null = null;
	#renewAt = 0;
	#renewal: Promise<SignedIn | null> | null = null;
	/** Called with each new token, and with null when the session has ended. */
	onchange: (signedIn: SignedIn | null) => void = () => {};
	/** The team that this tab shows; other tabs of the session may show others. */
	teamId: string | null = null;
	/** The team for which the present token is. */
	shownTeamId: string | null = null;
	#userId: string | null = null;

	/** Use the token of a sign-in. */
	accept(signedIn: SignedIn): void {
		this.#value = signedIn.token;
		// By the time that passes in this tab: the browser's clock may be wrong, its speed is not.
		this.#renewAt = performance.now() + signedIn.expires_in * 1000 - RENEW_BEFORE_MS;
		this.teamId = signedIn.team_id;
		this.shownTeamId = signedIn.team_id;
		this.#userId = signedIn.user_id;
		this.onchange(signedIn);
	}

	forget(): void {
		this.#value = null;
		this.shownTeamId = null;
		this.onchange(null);
	}

	/** The token for a call; a new one if it is about to expire. Null: not signed in. */
	async current(): Promise<string | null> {
		if (this.#value !== null && performance.now() > this.#renewAt) {
			try {
				await this.renew();
			} catch {
				// The old one may still be accepted, and if it is not, the call says so.
			}
		}
		return this.#value;
	}

	/** A token other than `refused`, which the server did not accept. Null: the session has ended. */
	async renewed(refused: string): Promise<string | null> {
		if (this.#value === refused) await this.renew();
		return this.#value;
	}

	/** Exchange the refresh cookie for a token. Null: there is no session. Throws `ApiError` if that is not known. */
	renew(): Promise<SignedIn | null> {
		this.#renewal ??= exclusively('wrenn-refresh', () => this.#refresh()).finally(() => (this.#renewal = null));
		return this.#renewal;
	}

	async #refresh(): Promise<SignedIn | null> {
		const before = this.#value;
		let response: Response;
		try {
			response = await fetch(`${base}/v1/auth/refresh`, {
				method: 'POST',
				headers: { 'content-type': 'application/json' },
				body: JSON.stringify(this.teamId === null ? {} : { team_id: this.teamId })
			});
		} catch {
			throw unreachable();
		}
		const body: unknown = await response.json().catch(() => undefined);
		if (response.ok) {
			const signedIn = body as SignedIn;
			// Another tab signed in as somebody else: what this one shows is not theirs.
			if (this.#userId !== null && this.#userId !== signedIn.user_id) {
				departure.begin('user');
				return null;
			}
			this.accept(signedIn);
			return signedIn;
		}
		// No member of this team any more: show another one.
		if ((response.status === 403 || response.status === 404) && this.teamId !== null && this.#userId !== null) departure.begin('team');
		if (response.status === 401) {
			// Unless somebody has signed in while this was under way.
			if (this.#value === before) this.forget();
			return null;
		}
		throw (await errorOf(response, body)) satisfies ApiError;
	}
}

export const token = new Token();
