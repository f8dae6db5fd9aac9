"""Templates: names and tags from which sandboxes are created, of teams and of the platform."""

from wrenn.control.templates import routes
from wrenn.control.templates.errors import NameReserved, TemplateNameTaken
from wrenn.control.templates.records import (
    BAD_NAME,
    DEFAULT_TEMPLATE,
    LATEST,
    Defaults,
    Reference,
    Template,
    TemplateStatus,
    TemplateType,
    move,
)
from wrenn.control.templates.service import Templates
from wrenn.control.templates.store import (
    DELETED,
    NewBase,
    built_content,
    count_layers_again,
    images_in_use,
    lock_names,
    own_layers_b,
    quota_status,
    record_tags,
    remove_all_bases,
    require_any_space,
    require_space,
    set_tags,
    snapshot_mb,
    snapshot_mb_left,
    snapshot_mb_of,
    statuses,
    template_count,
    template_count_of,
    version_count,
    was_built,
)
from wrenn.control.templates.store import find as find_template
from wrenn.control.templates.store import find_built as find_built_template
from wrenn.control.templates.store import get as get_template
from wrenn.control.templates.store import insert_base as insert_base_template
from wrenn.control.templates.store import is_reserved as is_reserved_name
from wrenn.control.templates.tables import snapshot_copies, template_tags, templates

routers = (routes.router,)
admin_routers = (routes.admin_router,)

__all__ = [
    "BAD_NAME",
    "DEFAULT_TEMPLATE",
    "DELETED",
    "LATEST",
    "Defaults",
    "NameReserved",
    "NewBase",
    "Reference",
    "Template",
    "TemplateNameTaken",
    "TemplateStatus",
    "TemplateType",
    "Templates",
    "admin_routers",
    "built_content",
    "count_layers_again",
    "find_built_template",
    "find_template",
    "get_template",
    "images_in_use",
    "insert_base_template",
    "is_reserved_name",
    "lock_names",
    "move",
    "own_layers_b",
    "quota_status",
    "record_tags",
    "remove_all_bases",
    "require_any_space",
    "require_space",
    "routers",
    "set_tags",
    "snapshot_copies",
    "snapshot_mb",
    "snapshot_mb_left",
    "snapshot_mb_of",
    "statuses",
    "template_count",
    "template_count_of",
    "template_tags",
    "templates",
    "version_count",
    "was_built",
]
