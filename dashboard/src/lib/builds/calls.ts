/** Calls about builds: of the team, or of the platform for its admins. They differ in nothing but their paths. */
import { answer, api, type Schemas } from '$lib/api/client';
import type { paths } from '$lib/api/schema';
import { to, toTeam } from '$lib/paths';

export type Build = Schemas['BuildView'];
export type BuildRequest = paths['/v1/builds']['post']['requestBody']['content']['application/json'];

const path = (id: string) => ({ params: { path: { build_id: id } } });

/** The request as a form, with the files for COPY. */
function form(request: BuildRequest, archive: Blob): FormData {
	const data = new FormData();
	data.append('config', JSON.stringify(request));
	data.append('archive', archive, 'context.tar');
	return data;
}

export interface BuildCalls {
	list: () => Promise<Build[]>;
	get: (id: string) => Promise<Build>;
	cancel: (id: string) => Promise<unknown>;
	create: (request: BuildRequest, archive: Blob | null) => Promise<Build>;
	/** Of the log's stream. */
	logPath: (id: string) => string;
	/** Of a page: the list, or below it. */
	page: (below?: string) => string;
	/** Whether the event stream tells of them. Events of the platform's own builds are nobody's. */
	hasEvents: boolean;
}

const below = (list: string, path: string) => (path === '' ? list : `${list}/${path}`);

export const teamBuilds: BuildCalls = {
	list: () => answer(api.GET('/v1/builds')),
	get: (id) => answer(api.GET('/v1/builds/{build_id}', path(id))),
	cancel: (id) => answer(api.POST('/v1/builds/{build_id}/cancel', path(id))),
	create: (request, archive) =>
		archive === null
			? answer(api.POST('/v1/builds', { body: request }))
			: answer(api.POST('/v1/builds', { body: request, bodySerializer: () => form(request, archive) })),
	logPath: (id) => `/v1/builds/${id}/logs`,
	page: (path = '') => below(toTeam('builds'), path),
	hasEvents: true
};

export const platformBuilds: BuildCalls = {
	list: () => answer(api.GET('/v1/admin/builds')),
	get: (id) => answer(api.GET('/v1/admin/builds/{build_id}', path(id))),
	cancel: (id) => answer(api.POST('/v1/admin/builds/{build_id}/cancel', path(id))),
	create: (request, archive) =>
		archive === null
			? answer(api.POST('/v1/admin/builds', { body: request }))
			: answer(api.POST('/v1/admin/builds', { body: request, bodySerializer: () => form(request, archive) })),
	logPath: (id) => `/v1/admin/builds/${id}/logs`,
	page: (path = '') => below(to('/admin/builds'), path),
	hasEvents: false
};

export const hasEnded = (build: Build): boolean => ['success', 'failed', 'cancelled'].includes(build.status);
