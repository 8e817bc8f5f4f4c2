"""nginx in front of two servers: a configuration of the experiment's own, in its own folder.

Set up better than by default where the defaults would cost a rival something: connections to the servers are kept, a
body of a megabyte stays in memory, and a request whose server is gone is repeated on the other one, POST included,
which is safe because every message has a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadtest.compare.ways import Balance

HASHES = {
    Balance.ROUND_ROBIN: "",
    Balance.IP_HASH: "ip_hash;",
    # What the commercial `sticky cookie` does: the first answer names the seat that every later request asks for.
    Balance.COOKIE: "hash $seat consistent;",
}

CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 8m;
    client_body_buffer_size 1m;
    proxy_buffers 16 64k;
    proxy_buffer_size 64k;
    proxy_busy_buffers_size 128k;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    # All clients are on this machine: who they are stands in a header, as behind any other proxy.
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;

    map $cookie_seat $seat {{ "" $request_id; default $cookie_seat; }}
    upstream servers {{
        {hash}
{servers}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout http_502 non_idempotent;
            {cookie}
        }}
    }}
}}
"""
SET_COOKIE = 'add_header Set-Cookie "seat=$seat; Path=/; HttpOnly";'


def config(balance: Balance, folder: Path, port: int, servers: Sequence[int]) -> str:
    """The whole configuration: listens at ``port`` of 127.0.0.1, passes on to ``servers`` there."""
    return CONFIG.format(
        folder=folder,
        port=port,
        hash=HASHES[balance],
        servers="\n".join(f"        server 127.0.0.1:{server};" for server in servers),
        cookie=SET_COOKIE if balance is Balance.COOKIE else "",
    )
