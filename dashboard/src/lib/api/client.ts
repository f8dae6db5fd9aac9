/** The typed client of the public API. All calls of the dashboard go through `api`, and `answer` unwraps them. */
import { base } from '$app/paths';
import createClient from 'openapi-fetch';
import { ApiError, errorOf, unreachable } from './errors';
import type { components, paths } from './schema';
import { token } from './token';
import { clock } from '$lib/state/clock.svelte';

/** The JSON types of the API by name, such as `Schemas['SandboxView']`. */
export type Schemas = components['schemas'];

/** Where the API is, without a slash at the end. */
export const origin = (): string => location.origin + base;

/** Fetch with the access token; once more with a new one if it was refused. */
export async function authorisedFetch(input: Request): Promise<Response> {
	// The body of a request can be read once, so a second attempt needs a copy from before the first.
	const second = input.clone();
	const used = await token.current();
	const first = await fetch(withToken(input, used));
	clock.learn(first.headers.get('date'));
	if (first.status !== 401 || used === null) return first;
	const renewed = await token.renewed(used);
	return renewed === null ? first : fetch(withToken(second, renewed));
}

function withToken(request: Request, value: string | null): Request {
	if (value !== null) request.headers.set('authorization', `Bearer ${value}`);
	return request;
}

export const api = createClient<paths>({ baseUrl: base || '/', fetch: authorisedFetch });

/** The body of an answer; throws `ApiError` for refusals and when no answer came. */
export async function answer<T>(
	call: Promise<{ data?: T; error?: unknown; response: Response }>
): Promise<T> {
	return (await answerWithHeaders(call)).data;
}

/** The same, with the headers: lists have their cursor there. */
export async function answerWithHeaders<T>(
	call: Promise<{ data?: T; error?: unknown; response: Response }>
): Promise<{ data: T; headers: Headers }> {
	let settled;
	try {
		settled = await call;
	} catch (error) {
		if (error instanceof ApiError || (error as Error).name === 'AbortError') throw error;
		throw unreachable();
	}
	if (!settled.response.ok) throw await errorOf(settled.response, settled.error);
	return { data: settled.data as T, headers: settled.response.headers };
}
