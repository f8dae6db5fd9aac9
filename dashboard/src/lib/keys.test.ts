import { expect, it } from 'vitest';
import { keysOf } from './keys';

it('gives rows with equal names different keys, and each of them the same one every time', () => {
	const keys = keysOf(['a', 'b', 'a', '1/a']);
	expect(new Set(keys).size).toBe(4);
	expect(keysOf(['a', 'b', 'a', 'c', '1/a']).filter((key) => keys.includes(key))).toEqual(keys);
});
