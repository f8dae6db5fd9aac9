/** Colours for source text: a list of pieces, as inserting markup is not permitted. Loaded only where text is previewed. */
import hljs from 'highlight.js/lib/core';
import bash from 'highlight.js/lib/languages/bash';
import css from 'highlight.js/lib/languages/css';
import go from 'highlight.js/lib/languages/go';
import ini from 'highlight.js/lib/languages/ini';
import javascript from 'highlight.js/lib/languages/javascript';
import json from 'highlight.js/lib/languages/json';
import markdown from 'highlight.js/lib/languages/markdown';
import python from 'highlight.js/lib/languages/python';
import rust from 'highlight.js/lib/languages/rust';
import typescript from 'highlight.js/lib/languages/typescript';
import xml from 'highlight.js/lib/languages/xml';
import yaml from 'highlight.js/lib/languages/yaml';

/** Some text and what it is: `keyword`, `string`, `comment`, …; empty: plain text. */
export interface Piece {
	text: string;
	scope: string;
}

const LANGUAGES = { bash, css, go, ini, javascript, json, markdown, python, rust, typescript, xml, yaml };
const BY_ENDING: Record<string, keyof typeof LANGUAGES> = {
	sh: 'bash', bash: 'bash', bashrc: 'bash', profile: 'bash', css: 'css', go: 'go', ini: 'ini', toml: 'ini', cfg: 'ini', conf: 'ini', service: 'ini',
	js: 'javascript', mjs: 'javascript', cjs: 'javascript', jsx: 'javascript', json: 'json', md: 'markdown', py: 'python', pyi: 'python',
	rs: 'rust', ts: 'typescript', tsx: 'typescript', html: 'xml', htm: 'xml', xml: 'xml', svg: 'xml', yaml: 'yaml', yml: 'yaml'
}; // prettier-ignore
const BY_PROGRAM: [RegExp, keyof typeof LANGUAGES][] = [
	[/python/, 'python'],
	[/node|deno|bun/, 'javascript'],
	[/sh\b/, 'bash']
];

/** Collects what the library finds. See `Emitter` of highlight.js. */
class Pieces {
	all: Piece[] = [];
	#scopes: string[] = [];

	addText(text: string): void {
		const scope = (this.#scopes[this.#scopes.length - 1] ?? '').split('.')[0] ?? '';
		const last = this.all[this.all.length - 1];
		if (last?.scope === scope) last.text += text;
		else if (text !== '') this.all.push({ text, scope });
	}
	openNode(name: string): void {
		this.#scopes.push(name);
	}
	closeNode(): void {
		this.#scopes.pop();
	}
	startScope = this.openNode;
	endScope = this.closeNode;
	__addSublanguage(emitter: Pieces): void {
		this.all.push(...emitter.all);
	}
	finalize(): void {}
	toHTML(): string {
		return '';
	}
}

for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);
hljs.configure({ __emitter: Pieces as never });

/** The language of a file by its name or first line; null: none that is known. */
function languageOf(name: string, text: string): string | null {
	const ending = name.slice(name.lastIndexOf('.') + 1).toLowerCase();
	const program = /^#!.*/.exec(text)?.[0];
	return BY_ENDING[ending] ?? BY_PROGRAM.find(([pattern]) => program !== undefined && pattern.test(program))?.[1] ?? null;
}

export function highlight(name: string, text: string): Piece[] {
	const language = languageOf(name, text);
	if (language === null) return [{ text, scope: '' }];
	return (hljs.highlight(text, { language, ignoreIllegals: true })._emitter as unknown as Pieces).all;
}
