"""The multipart body of a file upload: the path comes first, so that the platform can stream the file after it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping


class UploadForm:
    """The parts before and after the file's bytes. `fields`: the other form fields, by name; `file`: the name of the file's field."""

    def __init__(self, fields: Mapping[str, str], *, file: str = "file") -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        self.head = "".join(
            [
                *parts,
                f'--{boundary}\r\nContent-Disposition: form-data; name="{file}"; filename="{file}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n",
            ]
        ).encode()
        self.tail = f"\r\n--{boundary}--\r\n".encode()
