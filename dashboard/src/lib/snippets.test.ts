import { describe, expect, it } from 'vitest';
import { curl, pythonProgram, shortest, typescript } from './snippets';

const request = {
	template: 'minimal',
	name: `it's "new"`,
	vcpus: 2,
	auto_resume: true,
	metadata: { project: 'a\\b' },
	public_ports: [],
	network: { allow_internet: false }
};

describe('snippets', () => {
	it('leave out what the API fills in', () => {
		expect(shortest({ template: 'minimal', name: '', timeout_sec: 0, envs: {}, vcpus: 1 })).toEqual({ vcpus: 1 });
	});

	it('quote for the shell', () => {
		expect(curl(request, 'http://h')).toContain(`-d '{"name":"it'\\''s \\"new\\"","vcpus":2`);
	});

	it('are Python', () => {
		expect(pythonProgram(request, 'http://h')).toContain(
			'Sandbox.create(\n    name="it\'s \\"new\\"",\n    vcpus=2,\n    auto_resume=True,\n' +
				'    metadata={"project": "a\\\\b"},\n    network=NetworkPolicy(allow_internet=False),\n'
		);
	});

	it('are TypeScript', () => {
		expect(typescript({ vcpus: 2 }, 'http://h')).toContain('body: JSON.stringify({\n    "vcpus": 2\n  })');
	});
});
