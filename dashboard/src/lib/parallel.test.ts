import { expect, it } from 'vitest';
import { forEach } from './parallel';
import { pause } from './wait';

it('does six at a time, all of them, and returns the errors', async () => {
	let running = 0;
	let most = 0;
	const done: number[] = [];
	const errors = await forEach([...Array(20).keys()], async (number) => {
		most = Math.max(most, ++running);
		await pause(1);
		running--;
		if (number === 3) throw new Error('three');
		done.push(number);
	});
	expect([most, done.length, String(errors)]).toEqual([6, 19, 'Error: three']);
});
