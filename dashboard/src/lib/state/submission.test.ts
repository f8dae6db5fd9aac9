import { describe, expect, it } from 'vitest';
import { ApiError } from '$lib/api/errors';
import { Submission } from './submission.svelte';

describe('Submission', () => {
	it('keeps a refusal until the next attempt', async () => {
		const submission = new Submission();
		const refusal = new ApiError(409, 'conflict', 'There is one already.');
		let isRefused = true;
		const send = submission.handler(() => {
			expect(submission.busy).toBe(true);
			expect(submission.error).toBe(null);
			if (isRefused) throw refusal;
		});
		await send();
		expect(submission.error).toBe(refusal);
		expect(submission.busy).toBe(false);
		isRefused = false;
		await send();
		expect(submission.error).toBe(null);
	});

	it('also reports a fault of the page', async () => {
		const submission = new Submission();
		const fault = new TypeError('of the page');
		await expect(submission.handler(() => Promise.reject(fault))()).rejects.toBe(fault);
		expect(submission.error).toBe(fault);
		expect(submission.busy).toBe(false);
	});
});
