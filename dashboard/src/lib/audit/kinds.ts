/** What the audit log has entries about: for the choices of the filter. An address may name others. */

export const ACTIONS: Record<string, readonly string[]> = {
	sandbox: ['create', 'fork', 'pause', 'resume', 'move', 'destroy', 'set_timeout', 'set_network', 'set_disk', 'set_description', 'set_public_ports', 'marked_missing', 'marked_running', 'marked_error', 'files_lost', 'held', 'released'],
	snapshot: ['create', 'delete'],
	template: ['create', 'delete', 'tag'],
	build: ['create', 'cancel'],
	api_key: ['create', 'revoke'],
	member: ['invite', 'revoke_invitation', 'add', 'remove', 'leave', 'role_update'],
	team: ['create', 'rename', 'transfer', 'delete', 'set_keys_of_removed'],
	host: ['create', 'delete', 'token', 'register', 'update_address', 'drain', 'uncordon', 'marked_drained', 'marked_down', 'marked_up', 'add_tag', 'remove_tag'],
	registry: ['set_credentials', 'remove_credentials']
}; // prettier-ignore

export const PLATFORM_ACTIONS: Record<string, readonly string[]> = {
	user: ['activate', 'deactivate', 'grant_admin', 'revoke_admin', 'delete', 'verify_email', 'request_password_reset', 'reset_password', 'sign_in_by_link'],
	team: ['set_limits', 'set_byoc', 'delete'],
	host: ACTIONS['host'] ?? [],
	template: ['create', 'delete', 'tag'],
	build: ['create', 'cancel']
}; // prettier-ignore
