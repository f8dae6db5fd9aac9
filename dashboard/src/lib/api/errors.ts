/** A refusal or failure of a call, as the API words it: `code` is stable, `message` is for people. */
export class ApiError extends Error {
	constructor(
		readonly status: number,
		readonly code: string,
		message: string,
		/** The id under which the control plane's log tells more; empty if no answer came. */
		readonly requestId = '',
		/** Seconds after which the same call may succeed; 0: unknown. */
		readonly retryAfterS = 0
	) {
		super(message);
		this.name = 'ApiError';
	}

	/** Whether the same call may succeed later without any change. */
	get isTemporary(): boolean {
		return this.status === 0 || this.status === 429 || this.status >= 500;
	}
}

/** The error of a response that is not 2xx; any body is accepted, as a proxy between may answer in its own words. */
export async function errorOf(response: Response, body?: unknown): Promise<ApiError> {
	const requestId = response.headers.get('x-request-id') ?? '';
	const retryAfterS = Number(response.headers.get('retry-after')) || 0;
	const detail = (body as { error?: { code?: unknown; message?: unknown } } | undefined)?.error;
	if (typeof detail?.code === 'string' && typeof detail.message === 'string')
		return new ApiError(response.status, detail.code, detail.message, requestId, retryAfterS);
	return new ApiError(
		response.status,
		'unexpected_answer',
		`The server answered with status ${response.status}.`,
		requestId
	);
}

/** No answer came at all. */
export function unreachable(): ApiError {
	return new ApiError(0, 'unreachable', 'The control plane cannot be reached. Check the connection, then try again.');
}
