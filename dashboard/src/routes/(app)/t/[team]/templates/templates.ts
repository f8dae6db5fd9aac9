/** Templates of the list: which are shown, and what can be done with them. */
import type { Schemas } from '$lib/api/client';

export type Template = Schemas['TemplateView'];

/** What refers to this version alone: its id, or its name where hosts have built it themselves. */
export const referenceOf = (template: Template): string => template.id ?? template.name;

/** How people refer to this version: by name, and by its first tag where it is not the latest. */
export function namedReference(template: Template): string {
	const tags = template.tags ?? [];
	if (tags.length === 0) return template.type === 'base' && template.platform ? template.name : referenceOf(template);
	return tags.includes('latest') ? template.name : `${template.name}:${tags[0]}`;
}

export function filterTemplates(templates: Template[], text: string, kind: string): Template[] {
	const words = text.toLowerCase().split(/\s+/).filter(Boolean);
	return templates.filter((template) => (kind === '' || template.type === kind) && words.every((word) => textOf(template).includes(word)));
}

function textOf(template: Template): string {
	const labels = Object.entries(template.labels ?? {}).map(([name, value]) => `${name}=${value}`);
	return [template.name, template.id ?? '', ...(template.tags ?? []), ...labels].join('\n').toLowerCase();
}

/** Why it cannot be changed or deleted here; null: it can. */
export function reasonAgainstChange(template: Template): string | null {
	return template.platform ? 'It is the platform’s: all teams use it, and only admins of the platform change it.' : null;
}

const TAG = /^[a-z0-9][a-z0-9._-]{0,63}$/i;
export const isTag = (text: string): boolean => TAG.test(text);
