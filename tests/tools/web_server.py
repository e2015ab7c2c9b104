#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A web server for tests/demo: answers every request with a page of BYTES bytes.

Usage: tests/tools/web_server.py ADDRESS PORT BYTES

The header X-Source contains the source that the server saw, as ADDRESS:PORT, and X-Sum the SHA-256 of the page.
"""

import hashlib
import http.server
import sys

ADDRESS, PORT, LENGTH = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PAGE = (b"0123456789abcde\n" * (LENGTH // 16 + 1))[:LENGTH]
SUM = hashlib.sha256(PAGE).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("X-Source", f"{self.client_address[0]}:{self.client_address[1]}")
        self.send_header("X-Sum", SUM)
        self.end_headers()
        self.wfile.write(PAGE)

    def address_string(self):
        return self.client_address[0]

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer((ADDRESS, PORT), Handler).serve_forever()
