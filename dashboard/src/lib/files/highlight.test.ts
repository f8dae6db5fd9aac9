import { describe, expect, it } from 'vitest';
import { highlight } from './highlight';

describe('highlight', () => {
	it('loses and adds no character', () => {
		const samples: [string, string][] = [
			['a.py', '#!/usr/bin/env python3\ndef f(x: int) -> str:\n    """Doc."""\n    return f"{x}<b>"\n'],
			['a.html', '<p onclick="x()">&amp;</p><script>let a = 1;</script><style>p { color: red }</style>'],
			['run', '#!/bin/sh\necho "$HOME" # home\n'],
			['notes', 'plain text']
		];
		for (const [name, text] of samples) {
			const pieces = highlight(name, text);
			expect(pieces.map((piece) => piece.text).join('')).toBe(text);
			if (name !== 'notes') expect(new Set(pieces.map((piece) => piece.scope)).size).toBeGreaterThan(2);
		}
	});
});
