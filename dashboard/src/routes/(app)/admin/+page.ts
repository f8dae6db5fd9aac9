import { redirect } from '@sveltejs/kit';
import { to } from '$lib/paths';

export const load = () => redirect(307, to('/admin/hosts'));
