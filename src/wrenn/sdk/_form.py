"""The multipart body of a file upload: the path first, then the file, so that the platform can stream it."""

from __future__ import annotations

import secrets


class UploadForm:
    """What stands before and after the file's bytes."""

    def __init__(self, path: str) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="path"\r\n\r\n{path}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode(errors="surrogatepass")
        self.tail = f"\r\n--{boundary}--\r\n".encode()
